"""The training state as a blob."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain import tensors
from edged.domain.nn.model import Division
from edged.domain.nn.spec import Dense, Flatten
from edged.domain.topology import Adam, Augment, Cosine, Exchange, Outer, Sgd, Stream, Training, job
from edged.domain.training import checkpoint
from edged.domain.training.state import EpochMetrics, Fallback, Position, Tally, TrainState
from edged.errors import CheckpointCorrupt, TopologyMismatch

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
        division=Division(2, 16),
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


def test_a_state_comes_back_to_the_bit():
    state, back = make_state(), checkpoint.decode(BLOB, job=JOB)
    for name in ("position", "tally", "ends", "plan", "history", "job", "slowdowns", "learnt", "exchange"):
        assert getattr(back, name) == getattr(state, name)
    for name in state.params:
        assert back.params[name].tobytes() == state.params[name].tobytes()
        for slot in ("mean", "variance"):
            assert back.slots[slot][name].tobytes() == state.slots[slot][name].tobytes()
        back.params[name] += 1  # trained further in place
    assert checkpoint.encode(checkpoint.decode(BLOB, job=JOB)) == BLOB


@given(st.integers(0, len(BLOB) - 1), st.integers(1, 255))
def test_any_altered_byte_is_noticed(at, flip):
    altered = BLOB[:at] + bytes([BLOB[at] ^ flip]) + BLOB[at + 1 :]
    with pytest.raises(CheckpointCorrupt):
        checkpoint.decode(altered, job=JOB)


@given(st.integers(0, len(BLOB) - 1))
def test_any_truncation_is_noticed(length):
    with pytest.raises(CheckpointCorrupt):
        checkpoint.decode(BLOB[:length], job=JOB)


def test_other_safetensors_files_are_no_checkpoints():
    for metadata in ({}, {"edged": "checkpoint/1"}, {"edged": "pack/1", "sha256": "0" * 64}):
        with pytest.raises(CheckpointCorrupt):
            checkpoint.decode(tensors.encode({"a": np.zeros(1, np.float32)}, metadata), job=JOB)


def test_what_a_group_goes_back_to_comes_back_to_the_bit():
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


def test_weights_to_go_back_to_of_another_shape_are_refused():
    state = make_state()
    ones = {"dense.kernel": np.ones((4, 2), np.float32), "dense.bias": np.ones(3, np.float32)}
    state.fallback = Fallback(1200, ones, dict.fromkeys(state.slots, ones))

    with pytest.raises(CheckpointCorrupt):
        checkpoint.decode(checkpoint.encode(state))


def test_any_safetensors_reader_opens_it():
    load = pytest.importorskip("safetensors.numpy").load
    assert load(BLOB)["params/dense.bias"].tolist() == make_state().params["dense.bias"].tolist()


@pytest.mark.parametrize(
    ("stream", "training"),
    [
        (replace(STREAM, labels=("b", "a")), TRAINING),
        (replace(STREAM, shape=(4, 1, 1)), TRAINING),
        (STREAM, replace(TRAINING, model=(Flatten(), Dense(2, "relu")))),
        (STREAM, replace(TRAINING, optimizer=Sgd(0.1))),
        (STREAM, replace(TRAINING, global_batch=64)),
        (STREAM, replace(TRAINING, seed=1)),
        (STREAM, replace(TRAINING, optimizer=Sgd(nesterov=True))),
        (STREAM, replace(TRAINING, optimizer=Adam(0.05))),
        (STREAM, replace(TRAINING, schedule=Cosine())),
        (STREAM, replace(TRAINING, schedule=Cosine(warmup=1))),
        (STREAM, replace(TRAINING, weight_decay=1e-4)),
        (STREAM, replace(TRAINING, clip_norm=1.0)),
        (STREAM, replace(TRAINING, augment=Augment("horizontal"))),
        (STREAM, replace(TRAINING, class_weights=(1.0, 2.0))),
        (STREAM, replace(TRAINING, loss="mean_squared_error")),
        (STREAM, replace(TRAINING, test_fraction=0.2)),
        (STREAM, replace(TRAINING, reference_batch=32)),
        (STREAM, replace(TRAINING, exchange=Exchange("all_reduce"))),
    ],
)
def test_another_job_is_refused(stream, training):
    with pytest.raises(TopologyMismatch):
        checkpoint.decode(BLOB, job=job.job_digest(stream, training))


def test_more_epochs_are_the_same_job():
    assert job.job_digest(STREAM, replace(TRAINING, epochs=99, checkpoint_s=1, source="both")) == JOB


def test_how_a_group_exchanges_gradients_is_part_of_its_job_and_who_combines_them_is_not():
    def digest(*mode, **settings):
        return job.job_digest(STREAM, replace(TRAINING, exchange=Exchange(*mode, **settings)))

    jobs = [
        digest("all_reduce"),
        digest("all_reduce", "int8"),
        digest("all_reduce", "top_k"),
        digest("all_reduce", "top_k", top_k=0.1),
        digest("all_reduce", sync_every=4),
        digest("all_reduce", sync_every=4, outer=Outer(momentum=0.5)),
    ]
    assert len({*jobs}) == len(jobs)
    assert digest("parameter_server", server="vault") == digest("all_reduce")


def test_a_whole_blob_with_foreign_content_is_corrupt():
    """The digest is no signature: content is checked even when it fits."""
    state = make_state()
    state.slots["variance"].pop("dense.bias")
    with pytest.raises(CheckpointCorrupt):
        checkpoint.decode(checkpoint.encode(state), job=JOB)


def test_a_whole_blob_of_endless_json_is_corrupt(monkeypatch):
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
        ("slowdowns", np.inf), ("slowdowns", -1), ("slowdowns", 10**6),
    ],
)  # fmt: skip
def test_a_whole_blob_with_values_of_another_kind_is_corrupt(monkeypatch, key, value):
    dumps = json.dumps

    def forged(values, **options) -> str:
        return dumps({**values, key: value} if "plan" in values else values, **options)

    monkeypatch.setattr("json.dumps", forged)
    blob = checkpoint.encode(make_state())
    monkeypatch.undo()
    with pytest.raises(CheckpointCorrupt):
        checkpoint.decode(blob, job=JOB)


def test_overflowed_weights_are_not_finite():
    state = make_state()
    assert state.is_finite()
    state.params["dense.bias"][0] = np.inf
    assert not state.is_finite()


def test_the_history_is_bounded():
    state = make_state()
    state.history = state.history * 200
    assert len(checkpoint.decode(checkpoint.encode(state), job=JOB).history) == checkpoint.MAX_HISTORY
