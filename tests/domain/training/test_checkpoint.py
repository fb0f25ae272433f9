"""The training state as a blob: its round trip, and what is refused."""

import hashlib
import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain import tensors
from edged.domain.nn.model import Division
from edged.domain.nn.spec import Dense, Flatten
from edged.domain.topology import Stream, Training, job
from edged.domain.training import checkpoint
from edged.domain.training.state import MAX_HISTORY, EpochMetrics, Fallback, Position, Tally, TrainState
from edged.errors import AnotherVersion, CheckpointCorrupt, TopologyMismatch

STREAM = Stream("fashion", (2, 2, 1), "uint8", ("a", "b"))
TRAINING = Training("fashion", (Flatten(), Dense(2)))
JOB = job.job_digest(STREAM, TRAINING)


def make_state() -> TrainState:
    rng = np.random.default_rng(0)
    return TrainState(
        params={"dense.kernel": rng.random((4, 2), np.float32), "dense.bias": rng.random(2, np.float32)},
        slots={
            slot: {"dense.kernel": rng.random((4, 2), np.float32), "dense.bias": rng.random(2, np.float32)}
            for slot in ("mean", "variance")
        },
        job=JOB,
        division=Division(2, 16, "compiled/1"),
        position=Position(3, 640, 1234, 17, 5),
        tally=Tally(640, 500, 0.1 + 0.2, 3.25, 0.5),
        ends={"pi-a": 7, "_train.x": 235},
        plan="ab" * 32,
        history=(EpochMetrics(0, 400, 0.7, 0.6, None, None), EpochMetrics(1, 800, 0.5, None, 0.4, 0.65)),
        slowdowns=2,
        learnt=b"scores",
        exchange='{"step": 1234}',
    )


BLOB = checkpoint.encode(make_state())


def test_a_state_survives_a_round_trip_bit_for_bit():
    state, back = make_state(), checkpoint.decode(BLOB, job=JOB)
    for name in ("position", "tally", "ends", "plan", "history", "job", "slowdowns", "learnt", "exchange", "division"):
        assert getattr(back, name) == getattr(state, name)
    for name in state.params:
        assert back.params[name].tobytes() == state.params[name].tobytes()
        for slot in ("mean", "variance"):
            assert back.slots[slot][name].tobytes() == state.slots[slot][name].tobytes()
        back.params[name] += 1  # trained further in place
    assert checkpoint.encode(checkpoint.decode(BLOB, job=JOB)) == BLOB


@given(st.integers(0, len(BLOB) - 1), st.integers(1, 255))
def test_any_altered_byte_is_detected(at, flip):
    altered = BLOB[:at] + bytes([BLOB[at] ^ flip]) + BLOB[at + 1 :]
    with pytest.raises(CheckpointCorrupt):
        checkpoint.decode(altered, job=JOB)


@given(st.integers(0, len(BLOB) - 1))
def test_any_truncation_is_detected(length):
    with pytest.raises(CheckpointCorrupt):
        checkpoint.decode(BLOB[:length], job=JOB)


def test_other_safetensors_files_are_refused():
    for metadata in ({}, {"edged": "checkpoint/1", "sha256": "0" * 64}, {"edged": "pack/1", "sha256": "0" * 64}):
        with pytest.raises(CheckpointCorrupt):
            checkpoint.decode(tensors.encode({"a": np.zeros(1, np.float32)}, metadata), job=JOB)


def test_the_fallback_survives_a_round_trip_bit_for_bit():
    state = make_state()
    other = make_state()
    state.fallback = Fallback(1200, {name: array + 1 for name, array in other.params.items()}, other.slots)

    back = checkpoint.decode(checkpoint.encode(state)).fallback

    assert back is not None
    assert back.step == 1200
    assert {name: array.tobytes() for name, array in back.params.items()} == {
        name: array.tobytes() for name, array in state.fallback.params.items()
    }
    assert checkpoint.encode(checkpoint.decode(checkpoint.encode(state))) == checkpoint.encode(state)


def test_a_fallback_of_another_shape_is_refused():
    state = make_state()
    ones = {"dense.kernel": np.ones((4, 2), np.float32), "dense.bias": np.ones(3, np.float32)}
    state.fallback = Fallback(1200, ones, dict.fromkeys(state.slots, ones))

    with pytest.raises(CheckpointCorrupt):
        checkpoint.decode(checkpoint.encode(state))


def test_any_safetensors_reader_opens_it():
    load = pytest.importorskip("safetensors.numpy").load
    assert load(BLOB)["params/dense.bias"].tolist() == make_state().params["dense.bias"].tolist()


@pytest.mark.parametrize("version", ["checkpoint/5", "checkpoint/8"])
def test_a_whole_one_of_another_version_is_told_from_a_damaged_one(version):
    other = BLOB.replace(b"checkpoint/7", version.encode())
    arrays, metadata = tensors.decode(other)
    whole = tensors.encode(arrays, {**metadata, "sha256": "0" * 64})
    whole = whole.replace(b"0" * 64, hashlib.sha256(whole).hexdigest().encode(), 1)

    with pytest.raises(AnotherVersion, match=f"{version}, not checkpoint/7.*go back to that one"):
        checkpoint.decode(whole, job=JOB)
    with pytest.raises(CheckpointCorrupt):
        checkpoint.decode(other, job=JOB)


def test_one_of_a_version_that_proves_itself_in_another_way_is_not_taken_for_damaged():
    with pytest.raises(AnotherVersion):
        checkpoint.decode(tensors.encode({}, {"edged": "checkpoint/8", "blake3": "ab"}))
    with pytest.raises(CheckpointCorrupt):
        checkpoint.decode(tensors.encode({}, {"edged": "checkpoint/7"}))


def test_another_job_is_refused():
    with pytest.raises(TopologyMismatch):
        checkpoint.decode(BLOB, job="0" * 64)


def test_an_intact_blob_with_foreign_content_is_corrupt():
    """The digest is no signature: content is checked even when it fits."""
    state = make_state()
    state.slots["variance"].pop("dense.bias")
    with pytest.raises(CheckpointCorrupt):
        checkpoint.decode(checkpoint.encode(state), job=JOB)


def test_an_intact_blob_of_endless_json_is_corrupt(monkeypatch):
    dumps = json.dumps
    monkeypatch.setattr("json.dumps", lambda value, **_: "[" * 100_000 if "plan" in value else dumps(value))
    blob = checkpoint.encode(make_state())
    monkeypatch.undo()
    with pytest.raises(CheckpointCorrupt):
        checkpoint.decode(blob, job=JOB)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("position", 5), ("position", {**asdict(Position()), "step": "7"}), ("position", asdict(Position(step=-1))),
        ("tally", []), ("tally", {**asdict(Tally()), "loss": None}), ("history", [7]), ("division", None),
        ("division", {"lanes": 1, "micro_batch": 4}), ("division", {"lanes": 1, "micro_batch": 4, "backend": "a b"}),
        ("slowdowns", np.inf), ("slowdowns", -1), ("slowdowns", 10**6),
    ],
)  # fmt: skip
def test_an_intact_blob_with_values_of_another_type_is_corrupt(monkeypatch, key, value):
    dumps = json.dumps

    def forged(values, **options) -> str:
        return dumps({**values, key: value} if "plan" in values else values, **options)

    monkeypatch.setattr("json.dumps", forged)
    blob = checkpoint.encode(make_state())
    monkeypatch.undo()
    with pytest.raises(CheckpointCorrupt):
        checkpoint.decode(blob, job=JOB)


def test_the_history_is_bounded():
    state = make_state()
    state.history = state.history * 200
    assert len(checkpoint.decode(checkpoint.encode(state), job=JOB).history) == MAX_HISTORY
