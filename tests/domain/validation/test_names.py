"""Duplicate names, and names that join to the same topic."""

from dataclasses import replace

import pytest

from edged.domain.topology import Archive, Device, Edge, Stream
from tests.support.valid_topology import VALID, problems, with_device


@pytest.mark.parametrize(
    ("topology", "path", "message"),
    [
        (with_device(name="pi-a"), "edges[0].name", '"pi-a" is already the name of iot[0]'),
        (with_device(name="PI-A"), "edges[0].name", '"pi-a" is too like "PI-A", the name of iot[0]'),
        (replace(VALID, archive=(Archive("pi_b.", "file:///x"),), edges=(Edge("pi-a"), Edge("pi-b"), Edge("pi.b."))),
         "archive[0].name", '"pi_b." is too like "pi.b.", the name of edges[2]'),
        (replace(VALID, streams=(*VALID.streams, replace(VALID.streams[0], name="Tiles"))),
         "streams.Tiles", '"Tiles" is too like "tiles", the name of streams.tiles'),
    ],
)  # fmt: skip
def test_a_broken_rule_is_reported_once_at_its_place(topology, path, message):
    assert problems(topology) == [(path, message)]


def test_a_stream_and_an_edge_do_not_join_to_anothers_topic():
    """ "a" on "b.c" and "a.b" on "c" would both be <site>.archive.a.b.c."""
    streams = tuple(Stream(name, (4,), "uint8", ("x",)) for name in ("a", "a.b"))
    topology = replace(
        VALID,
        streams=streams,
        edges=(Edge("b.c"), Edge("c")),
        iot=(Device("one", "b.c", "a"), Device("two", "c", "a.b")),
        jobs=(),
    )

    ((path, message),) = problems(topology)

    assert path == "streams.a.b"
    assert message.startswith('"lab.archive.a.b.c" would carry stream "a.b" of edge "c" and another')
