"""Records survive the way through the log; whatever breaks a rule is a FormatError, nothing else."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain import tensors
from edged.domain.group import records, state_json
from edged.domain.group.records import (
    MAX_CHUNK_BYTES,
    Begin,
    Close,
    Contribution,
    Join,
    Leave,
    Part,
    Update,
    decode,
    encode,
    from_values,
    to_values,
)
from edged.domain.group.state import Member, State
from edged.errors import FormatError
from tests.support.properties import examples

DIGEST = "0123456789abcdef" * 4
RECORDS: list[records.Record] = [
    Join("pi-a", DIGEST, 12, DIGEST[::-1]),
    Leave("pi-a"),
    Begin(3, {"pi-b": 0.25, "pi-a": 0.75}, {"pi-a": 12, "pi-b": 0}, 40, DIGEST, "pi-a"),
    Part("pi-a", 7, "00ff00ff", 1, 3, 32, 11.5, 30, 250.0, b"\x00\xff" * 100),
    Part("pi-a", 7, "00ff00ff", 0, 1, 0, 0.0, 0, 0.0, b""),
    Close(7, "pi-b"),
    records.Tested("pi-b", 3, 100, 91, 30.25, DIGEST),
    records.Tested("pi-b", 3, 0, 0, 0.0, DIGEST),
    Update(7, 0, 2, (Contribution("pi-a", 32, 11.5, 30), Contribution("pi-b", 0, 0.0, 0)), 90, '{"a": 1}', b"abc"),
    Update(7, 0, 1, (Contribution("pi-b", 0, 0.0, 0),), 90, "", b""),
]
NOT_A_NUMBER = float("nan")


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_survives_a_round_trip(record):
    assert decode(encode(record)) == record


def test_equal_records_give_equal_bytes_whatever_the_order_of_their_maps():
    one = Begin(0, {"a": 0.5, "b": 0.5}, {"x": 1, "y": 2}, 1, DIGEST, "a")
    other = Begin(0, {"b": 0.5, "a": 0.5}, {"y": 2, "x": 1}, 1, DIGEST, "a")

    assert encode(one) == encode(other)


def test_a_chunk_is_stored_verbatim_after_a_small_header():
    blob = encode(Part("pi-a", 7, "00ff00ff", 0, 1, 32, 11.5, 30, 250.0, bytes(MAX_CHUNK_BYTES)))

    assert len(blob) < MAX_CHUNK_BYTES + 512


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        (RECORDS[0], "edge", ""),
        (RECORDS[0], "edge", "../pi"),
        (RECORDS[0], "edge", "pi\n"),
        (RECORDS[0], "edge", 5),
        (RECORDS[0], "job_digest", DIGEST[1:]),
        (RECORDS[0], "step", -1),
        (RECORDS[0], "weights", ""),
        (RECORDS[6], "weights", DIGEST[1:]),
        (RECORDS[0], "job_digest", DIGEST.upper()),
        (RECORDS[2], "epoch", -1),
        (RECORDS[2], "epoch", True),
        (RECORDS[2], "epoch", 1.0),
        (RECORDS[2], "num_steps", 0),
        (RECORDS[2], "num_steps", 1 << 63),
        (RECORDS[2], "members", {}),
        (RECORDS[2], "members", {"a": 0.5, "b": 0.4}),
        (RECORDS[2], "members", {"a": 1.5, "b": -0.5}),
        (RECORDS[2], "members", {"a": 1.0, "b": 0.0}),
        (RECORDS[2], "members", {"a": NOT_A_NUMBER}),
        (RECORDS[2], "members", {"a": "1.0"}),
        (RECORDS[2], "members", {f"pi-{i}": 1 / 65 for i in range(65)}),
        (RECORDS[2], "members", {"a/b": 1.0}),
        (RECORDS[2], "ends", {"a": -1}),
        (RECORDS[2], "ends", []),
        (RECORDS[2], "weights", None),
        (RECORDS[3], "step", -1),
        (RECORDS[3], "attempt", "00ff00fg"),
        (RECORDS[3], "part", 3),
        (RECORDS[3], "parts", 1 << 40),
        (RECORDS[3], "count", -1),
        (RECORDS[3], "count", 0),
        (RECORDS[3], "count", 1 << 40),
        (RECORDS[3], "num_correct", 33),
        (RECORDS[3], "loss", NOT_A_NUMBER),
        (RECORDS[3], "loss", float("inf")),
        (RECORDS[3], "loss", 1e300),
        (RECORDS[3], "loss", "1"),
        (RECORDS[3], "samples_per_s", -1.0),
        (RECORDS[3], "samples_per_s", NOT_A_NUMBER),
        (RECORDS[3], "chunk", b""),
        (RECORDS[3], "chunk", bytes(MAX_CHUNK_BYTES + 1)),
        (RECORDS[4], "chunk", b"x"),
        (RECORDS[4], "loss", 1.0),
        (RECORDS[4], "parts", 2),
        (RECORDS[6], "num_samples", -1),
        (RECORDS[6], "num_correct", 101),
        (RECORDS[8], "contributions", []),
        (RECORDS[8], "contributions", [["pi-b", 1, 0.5, 0], ["pi-a", 1, 0.5, 0]]),
        (RECORDS[8], "contributions", [["pi-a", 1, 0.5, 0], ["pi-a", 1, 0.5, 0]]),
        (RECORDS[8], "contributions", [["pi-a", 1, 0.5]]),
        (RECORDS[8], "contributions", [[1, 1, 0.5, 0], ["a", 1, 0.5, 0]]),
        (RECORDS[8], "contributions", "pi-a"),
        (RECORDS[8], "position", -1),
        (RECORDS[8], "state", {}),
        (RECORDS[8], "state", "x" * 10_000_000),
        (RECORDS[8], "chunk", b""),
        (RECORDS[9], "chunk", b"x"),
    ],
)
def test_a_field_that_breaks_its_rule_is_refused(record, field, value):
    with pytest.raises(FormatError):
        from_values(to_values(record) | {field: value})


@pytest.mark.parametrize(
    "values",
    [None, [], {}, {"kind": "leave"}, {"kind": "leave", "edge": "a", "more": 1}, {"kind": "stay", "edge": "a"},
     {"kind": ["leave"], "edge": "a"}],
)  # fmt: skip
def test_fields_that_no_record_has_are_refused(values):
    with pytest.raises(FormatError):
        from_values(values)


def blob_of(text, tensors_of=None, **metadata):
    return tensors.encode(tensors_of or {}, {"edged": "exchange/1", "record": text, **metadata})


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        tensors.encode({}, {"record": '{"kind": "leave", "edge": "a"}'}),
        blob_of('{"kind": "leave", "edge": "a"}', edged="exchange/5"),
        blob_of('{"kind": "leave", "edge": "a"}', more="x"),
        blob_of('{"kind": "leave", "edge": "a"}', {"chunk": np.zeros(3, np.uint8)}),
        blob_of("[" * 100_000),
        blob_of("no JSON"),
        blob_of(json.dumps(to_values(RECORDS[4]) | {"chunk": "abc"})),
        blob_of('{"kind": "leave", "edge": "a"}', {"chunk": np.zeros(1 << 20, np.uint8)}),
    ],
)
def test_a_blob_that_is_no_record_is_refused(blob):
    with pytest.raises(FormatError):
        decode(blob)


def test_a_chunk_of_another_type_is_refused():
    values = to_values(RECORDS[3])
    del values["chunk"]

    with pytest.raises(FormatError):
        decode(blob_of(json.dumps(values), {"chunk": np.zeros(3, np.float32)}))


def test_a_record_larger_than_the_log_accepts_is_not_encoded():
    with pytest.raises(FormatError, match="bytes"):
        encode(Update(0, 0, 1, (Contribution("a", 1, 0.0, 0),), 0, '"' * 256 * 1024, b"x" * MAX_CHUNK_BYTES))


@examples(300)
@given(st.sampled_from(RECORDS), st.integers(0, 600), st.binary(max_size=4), st.integers(0, 3))
def test_a_garbled_blob_is_a_record_or_a_format_error(record, at, put, cut):
    blob = encode(record)
    garbled = blob[:at] + put + blob[at + cut :]

    try:
        found = decode(garbled)
    except FormatError:
        return
    assert decode(encode(found)) == found


@pytest.mark.parametrize("source", ["pi-a", "_train.fashion", "_test.fashion"])
def test_the_ends_of_a_begin_may_name_edges_and_imported_data_sets(source):
    begin = Begin(0, {"pi-a": 1.0}, {source: 3}, 1, "0" * 64, "pi-a")
    assert decode(encode(begin)) == begin


@pytest.mark.parametrize("source", ["", "_other.fashion", "_train.", "_test._train.x", "a/b"])
def test_a_source_of_unknown_kind_is_refused(source):
    with pytest.raises(FormatError):
        Begin(0, {"pi-a": 1.0}, {source: 3}, 1, "0" * 64, "pi-a")


def test_the_state_of_an_epoch_over_the_maximum_of_sources_fits_into_an_update():
    edges = [f"edge-{i:059}" for i in range(64)]
    ends = {f"_train.{i:064}": (1 << 62) - 1 for i in range(2048)}
    begin = Begin(0, dict.fromkeys(edges, 1 / 64), ends, 9, "0" * 64, edges[0])
    members = dict.fromkeys(edges, Member(missed=0, samples_per_s=1 / 3))
    state = State(1, 9, 99, begin, members=members, weights_by_edge=dict.fromkeys(edges, DIGEST))
    contributions = tuple(Contribution(edge, 9, 1 / 3, 1) for edge in edges)
    update = Update(0, 0, 1, contributions, 99, state_json.to_json(state), b"x" * records.MAX_CHUNK_BYTES)
    assert records.decode(records.encode(update)) == update
    with pytest.raises(FormatError):
        Begin(0, {"pi-a": 1.0}, {**ends, "one-more": 1}, 9, "0" * 64, "pi-a")
