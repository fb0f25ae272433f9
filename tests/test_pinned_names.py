"""Names of classes and fields that are data: renaming in the code must not change what is hashed, stored or sent.

A failure here means that checkpoints are refused, or that members of a group do not understand each other. The values
were taken before the names of the code were first changed.
"""

import hashlib
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edged.adapters.parquet.store import SourceSummary
from edged.adapters.parquet.verify import Finding
from edged.adapters.tflite.reader import read_tflite
from edged.adapters.tflite.writer import LAYERS, to_tflite
from edged.cli.demo.group import Contribution as GroupMember
from edged.cli.demo.group import Group
from edged.cli.demo.outage import Outage
from edged.cli.demo.report import Summary, WayBack
from edged.domain.archive.snapshot import Snapshot
from edged.domain.epochs import modes, sampler_state
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.importance import Gate
from edged.domain.epochs.plan import PlanSettings
from edged.domain.epochs.sampler_state import SamplerState
from edged.domain.epochs.scores import ScoreTable
from edged.domain.group import records, state_json
from edged.domain.group import state as state_module
from edged.domain.group.records import Begin, Close, Contribution, Join, Leave, Part, Update
from edged.domain.group.replay import Claim
from edged.domain.nn.model import Division
from edged.domain.nn.params import parameter_shapes
from edged.domain.nn.spec import (
    AvgPool1d,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    LayerSpec,
    MaxPool1d,
    MaxPool2d,
    Relu,
    Relu6,
    Tanh,
)
from edged.domain.samples import prediction
from edged.domain.samples.prediction import Prediction
from edged.domain.topology import (
    Adam,
    Augment,
    Backbone,
    BackboneFile,
    Cosine,
    Exchange,
    Lars,
    Outer,
    SamplingMode,
    Step,
    Stream,
    Training,
)
from edged.domain.topology.job import job_digest
from edged.domain.training import checkpoint
from edged.domain.training.state import EpochMetrics, Fallback, Position, Tally, TrainState

IMAGES: tuple[LayerSpec, ...] = (
    Conv2d(4, (3, 3), padding="same", activation="relu"),
    GroupNorm(2),
    DepthwiseConv2d((3, 3), activation="tanh"),
    Relu6(),
    MaxPool2d((2, 2), (2, 2)),
    AvgPool2d((2, 2), (1, 1)),
    Dropout(0.25),
    Tanh(),
    Flatten(),
    Dense(2, "relu6"),
)
SERIES: tuple[LayerSpec, ...] = (
    Conv1d(4, 3, 1, "same"),
    Relu(),
    MaxPool1d(2, 2),
    AvgPool1d(2, 1),
    GlobalAvgPool(),
    Dense(2),
)
STREAM = Stream("photos", (8, 8, 1), "uint8", ("a", "b"))
TRAINING = Training("photos", IMAGES)


def blocks(num_blocks: int) -> Snapshot:
    each = np.ones(num_blocks, np.int64)
    offsets = np.arange(num_blocks, dtype=np.int64)
    return Snapshot(("pi-a",), 0 * each, offsets, 16 * each, 1600 * each, {"pi-a": num_blocks})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize(
    ("training", "digest"),
    [
        (TRAINING, "9c5d72e6a9dbfc86"),
        (replace(TRAINING, model=SERIES), "c548bb46c03a4b3f"),
        (replace(TRAINING, optimizer=Adam(), schedule=Cosine(1.0, 0.1), class_weights=(1.0, 2.0)), "4afb8f38e600170e"),
        (replace(TRAINING, optimizer=Lars(), schedule=Step(2.0), augment=Augment("both", 1, 0.5)), "8d2f0db686242caf"),
        (
            replace(TRAINING, exchange=Exchange("all_reduce", "top_k", outer=Outer(0.7, 0.9)), reference_batch=8),
            "0d0f1ae4f5a1e6a1",
        ),
        (
            replace(TRAINING, backbone=Backbone("b.tflite", file=BackboneFile((8, 8, 1), (4,), "ab" * 32))),
            "219ed56f491156a4",
        ),
    ],
)
def test_a_job_has_the_digest_that_its_checkpoints_have(training, digest):
    assert job_digest(STREAM, training)[:16] == digest


@pytest.mark.parametrize(
    ("mode", "digest"),
    [
        ("uniform", "f480036e87f8a2cd"),
        ("stratified", "4247e75c9ad6f299"),
        ("lru", "539d2cba0fe3ae95"),
        ("importance", "83c1c6e919b8eb2e"),
        ("shade", "1fd23beb128632fa"),
        ("icache", "eca54a92b53a0c5e"),
    ],
)
def test_a_plan_has_the_digest_that_checkpoints_name(mode: SamplingMode, digest):
    snapshot = blocks(64)
    scores = ScoreTable(snapshot, 1 << 16)
    scores.update(np.arange(64), np.linspace(0.1, 1, 64, dtype=np.float32))
    boundary = EpochStart(np.arange(0, 64, 2), cursor=3, hit_share=0.5, is_gate_open=True, capacity_bytes=6400)
    settings = PlanSettings(seed=7, test_fraction=0.1, window_bytes=4000, capacity_bytes=6400)
    assert modes.plan(mode, settings, snapshot, 6, boundary, scores).digest[:16] == digest


HEX = "0123456789abcdef" * 4
BEGIN = Begin(1, {"pi-a": 0.5, "pi-b": 0.5}, {"pi-a": 7}, 9, HEX, "pi-a")
RECORDS = [
    (Join("pi-a", HEX, 3, HEX), "join", "781c17e1bcb46733"),
    (Leave("pi-a"), "leave", "88ac76814757d5de"),
    (BEGIN, "begin", "5833dbe90db1e1f3"),
    (Part("pi-a", 3, "0badcafe", 0, 1, 16, 2.5, 7, 100.0, b"chunk"), "part", "814cf96005631fc4"),
    (Close(3, "pi-a"), "close", "806c86f42c05a719"),
    (records.Tested("pi-a", 1, 10, 5, 2.5, HEX), "tested", "90bae1f16d4ac348"),
    (Update(3, 0, 1, (Contribution("pi-a", 16, 2.5, 7),), 12, "{}", b"chunk"), "update", "a441e8138a0f07a1"),
]


@pytest.mark.parametrize(("record", "kind", "digest"), RECORDS)
def test_a_record_of_the_groups_log_is_the_same_bytes(record, kind, digest):
    blob = records.encode(record)
    assert records.to_values(record)["kind"] == kind
    assert sha256(blob) == digest
    assert records.decode(blob) == record


def test_the_state_of_the_groups_log_is_the_same_text():
    members = {"pi-a": state_module.Member(missed=0, samples_per_s=2.5, last_step=3)}
    state = state_module.State(4, 9, 77, BEGIN, members=members, weights_by_edge={"pi-a": HEX})
    assert sha256(state_json.to_json(state).encode()) == "92e3610268e727aa"


def test_a_checkpoint_is_the_same_bytes():
    def params(first: float) -> dict[str, npt.NDArray[np.float32]]:
        return {"dense.kernel": np.arange(first, first + 4, dtype=np.float32).reshape(2, 2)}

    state = TrainState(
        params=params(0),
        slots={"velocity": params(4)},
        job=HEX,
        division=Division(2, 16),
        position=Position(3, 640, 1234, 17, 5, "its-log"),
        tally=Tally(640, 500, 0.5, 3.25, 0.5, 0.125),
        ends={"pi-a": 7},
        plan=HEX,
        history=(EpochMetrics(0, 400, 0.7, 0.6, None, None), EpochMetrics(1, 800, 0.5, None, 0.4, 0.65, 0.3)),
        slowdowns=2,
        learnt=b"scores",
        exchange='{"step": 1234}',
        fallback=Fallback(1200, params(8), {"velocity": params(12)}),
    )
    blob = checkpoint.encode(state)
    assert sha256(blob) == "d1a2a5e58574d0c2"
    assert checkpoint.encode(checkpoint.decode(blob)) == blob


def test_what_an_epoch_leaves_to_the_next_is_the_same_bytes():
    snapshot = blocks(4)
    scores = ScoreTable(snapshot, 1 << 16)
    scores.update(np.arange(4), np.linspace(0.1, 1, 4, dtype=np.float32))
    boundary = EpochStart(np.arange(0, 64, 2), cursor=3, hit_share=0.5, is_gate_open=True, capacity_bytes=6400)
    assert sha256(sampler_state.encode(SamplerState(3, snapshot, boundary, scores, Gate(1.25)))) == "f30a54adf04701c0"


def test_predictions_are_the_same_text():
    classified = Prediction("cam-01", 0, 7, 1000, 990, "a", 0.75, {"a": 0.75, "b": 0.25}, 3, 1.5, 0.5)
    scored = Prediction("cam-01", 0, 7, 1000, None, None, None, {}, 3, None, 0.5, 0.25, 0.5)
    sample = '{"device":"cam-01","partition":0,"offset":7,"arrived_ms":1000,'
    label = '"sampled_ms":990,"label":"a","probability":0.75,"probabilities":{"a":0.75,"b":0.25},'
    times = '"generation":3,"latency_ms":1.5,"compute_ms":0.5'
    without = '"generation":3,"compute_ms":0.5,"anomaly":0.25,"anomaly_threshold":0.5'
    assert prediction.encode(classified).decode() == f"{sample}{label}{times}}}"
    assert prediction.encode(scored).decode() == f"{sample}{without}}}"


def test_a_model_file_names_its_layers_as_before():
    params = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(STREAM.shape, IMAGES).items()}
    content = to_tflite(STREAM.shape, IMAGES, params, labels=STREAM.labels)
    assert LAYERS == "edged.layers"
    layers = (
        '[["conv2d", {"filters": 4, "kernel": [3, 3], "stride": [1, 1], "padding": "same", "activation": "relu"}], '
        '["group_norm", {"groups": 2, "epsilon": 1e-05}], '
        '["depthwise_conv2d", {"kernel": [3, 3], "stride": [1, 1], "padding": "valid", "activation": "tanh"}], '
        '["relu6", {}], ["max_pool2d", {"size": [2, 2], "stride": [2, 2]}], '
        '["avg_pool2d", {"size": [2, 2], "stride": [1, 1]}], ["dropout", {"rate": 0.25}], ["tanh", {}], '
        '["flatten", {}], ["dense", {"units": 2, "activation": "relu6"}]]'
    )
    assert layers.encode() in content
    assert read_tflite(content).layers == IMAGES


def test_the_figures_that_programs_read_keep_their_names():
    def names(kind: type[Any]) -> str:
        return " ".join(each.name for each in fields(kind))

    assert names(Summary) == (
        "edges test_accuracy samples_per_s data_wait_fraction blocked_fraction backend no_kernels peak_rss_mib "
        "published archived archived_twice predicted predicted_twice dead_lettered prediction_p50_ms prediction_p99_ms "
        "live_accuracy epochs trained_samples import_samples wall_s group way_back"
    )
    assert names(WayBack) == "delivered delivered_twice p50_ms p99_ms"
    assert names(Group) == ("steps steps_without_somebody weights proofs proofs_failed edges outage took_part_again")
    assert names(GroupMember) == "samples share steps missed bytes_per_step weights"
    assert names(Outage) == "edge epoch step away_s caught_up"
    assert names(SourceSummary) == (
        "stream source files blocks samples num_bytes stored_bytes first next lost damaged forgotten_bytes"
    )
    assert Finding._fields == ("kind", "path", "detail")
    assert Claim._fields == ("name", "step", "weights")
