"""Devices, edges and the archive."""

from dataclasses import replace

import pytest

from edged.domain.topology import Archive
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


@pytest.mark.parametrize("count", [0, 2])
def test_there_is_exactly_one_archive_and_the_reason_is_given(count):
    archive = tuple(Archive(f"vault-{i}", "file:///x") for i in range(count))

    message = (
        f"exactly one archive node, not {count}: one node serves, and the file system behind it is what is distributed"
    )
    assert problems(replace(VALID, archive=archive)) == [("archive", message)]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file://srv/edged", "file:// takes an absolute path"),
        ("file:srv", "file:// takes an absolute path"),
        ("/srv/edged", "the archive's URL begins with file://, hdfs:// or s3://"),
        ("ftp://host/x", "the archive's URL begins with file://, hdfs:// or s3://"),
        ("file:///srv?x=1", "the archive's URL has no '?' and no '#'"),
        ("s3://key:secret@bucket/x", "a URL holds no user name or password here"),
        ("file://[", "it is not a URL"),
    ],
)
def test_the_archives_url_is_one_that_can_be_written_to(url, message):
    assert ("archive[0].url", message) in problems(replace(VALID, archive=(Archive("vault", url),)))


def test_a_raw_sample_fits_into_one_message():
    largest = replace(VALID.streams[1], shape=(256, 256, 3), dtype="float32")

    assert problems(replace(VALID, streams=(VALID.streams[0], largest))) == []
    assert problems(replace(VALID, streams=(VALID.streams[0], replace(largest, shape=(256, 256, 4))))) == [
        (
            "iot[1].codec",
            "a raw sample of 256×256×4 float32 has 1048576 bytes; at most 786432 fit into one message",
        )
    ]


WARNED = 'the stream "tiles" is trained on live: an edge that lags, or was away, misses what has been deleted meanwhile'


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


def test_deleting_what_is_archived_under_live_training_is_a_warning():
    trimming = (replace(VALID.archive[0], trim=True),)

    assert warnings(replace(VALID, archive=trimming)) == []
    live = with_training(source="both")
    assert ("archive[0].trim", WARNED) in warnings(replace(live, archive=trimming))
    assert ("archive[0].trim", WARNED) not in warnings(live)


def test_a_suggestion_names_the_nearest_name():
    (finding,) = rules.problems(with_device(edge="pi-x"))

    assert finding.suggestion == 'did you mean "pi-a"?'
