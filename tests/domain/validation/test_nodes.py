"""Devices and edges."""

from dataclasses import replace

import pytest

from edged.domain.validation import rules
from tests.support.valid_topology import VALID, problems, warnings, with_device, with_stream, with_training


@pytest.mark.parametrize(
    ("topology", "path", "message"),
    [
        (with_device(edge="pi-x"), "iot[0].edge", 'no edge is called "pi-x"'),
        (with_device(stream="tilse"), "iot[0].stream", 'no stream is called "tilse"'),
        (with_stream(dtype="float32"), "iot[0].codec",
         "jpeg needs uint8 samples of shape [height, width, 1] or [height, width, 3], not 8×8×1 float32"),
        (with_stream(shape=(8, 8, 2)), "iot[0].codec",
         "jpeg needs uint8 samples of shape [height, width, 1] or [height, width, 3], not 8×8×2 uint8"),
        (with_stream(shape=(64,)), "iot[0].codec",
         "jpeg needs uint8 samples of shape [height, width, 1] or [height, width, 3], not 64 uint8"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_reported_once_at_its_place(topology, path, message):
    assert problems(topology) == [(path, message)]


def test_a_raw_sample_fits_into_one_message():
    largest = replace(VALID.streams[1], shape=(256, 256, 3), dtype="float32")

    assert problems(replace(VALID, streams=(VALID.streams[0], largest))) == []
    assert problems(replace(VALID, streams=(VALID.streams[0], replace(largest, shape=(256, 256, 4))))) == [
        (
            "iot[1].codec",
            "a raw sample of 256×256×4 float32 has 1048576 bytes; at most 786432 fit into one message",
        )
    ]


@pytest.mark.parametrize(
    ("topology", "path", "message"),
    [
        (replace(VALID, iot=VALID.iot[:1]), "edges[1].name", "no device sends to this edge"),
        (with_training(source="live"), "edges[1].name",
         'none of its devices sends the stream "tiles" that it trains on'),
    ],
)  # fmt: skip
def test_what_works_but_is_probably_not_intended_is_a_warning(topology, path, message):
    assert problems(topology) == []
    assert warnings(topology) == [(path, message)]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("Boot", "boot"), '"boot" and "Boot" differ in upper and lower case alone'),
        (("left boot", "left\u00a0boot"), '"left\\xa0boot" and "left boot" look alike'),
        (("boot", "\uff42oot"), '"\uff42oot" and "boot" look alike'),
    ],
    ids=["case", "blank", "width"],
)
def test_labels_that_are_hard_to_tell_apart_are_a_warning(labels, message):
    topology = with_stream(labels=labels)
    assert problems(topology) == []
    assert warnings(topology) == [("streams.tiles.labels[1]", message)]


def test_a_suggestion_names_the_nearest_name():
    (finding,) = rules.problems(with_device(edge="pi-x"))

    assert finding.suggestion == 'did you mean "pi-a"?'
