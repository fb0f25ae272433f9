"""The companion on the fake log: every usable record is predicted exactly once, whatever happens in between."""

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from edged.adapters.images import PillowDecoder, encode
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.domain.nn.spec import Dense, Flatten
from edged.domain.samples import times
from edged.domain.samples.prediction import decode
from edged.domain.topology import Codec, Training
from edged.errors import ConfigError, FormatError, NotProven, StorageError
from edged.ports import CheckpointStore, DeployedModel, Message, TopicPartition, TopicSpec
from edged.services.inference.companion import Companion, served_job
from edged.settings import TopologyInUse
from tests.support.greenhouse import LABELS, SHAPE, topology

PREDICTIONS = "greenhouse.predictions.pi"
GROUP = topology().group("infer", "pi")
CAM, CAM_2 = TopicPartition("greenhouse.iot.cam"), TopicPartition("greenhouse.iot.cam-2")
LOW, HIGH = bytes(6), b"\xff" * 6
NOW_MS = 1_700_000_000_250.0
BAD = [
    Message(CAM.topic, b""),
    Message(CAM.topic, LOW[:-1]),
    Message(CAM.topic, LOW, key=b"no such label"),
    Message(CAM.topic, LOW, key=b"\xff"),
]


class Brightness:
    """Says how bright a sample is: probability of "high" = mean. `sees` are the batches it got."""

    def __init__(self):
        self.sees = []

    def predict(self, x):
        self.sees.append(x.copy())
        bright = x.reshape(len(x), -1).mean(axis=1, dtype=np.float64)
        return np.stack([1 - bright, bright], axis=1).astype(np.float32)


def load(content):
    if content == b"torn":
        raise FormatError("not a model")
    return Brightness().predict


class Models:
    """Deployed models; with `deploy_every` a new one at every that many queries."""

    def __init__(self, *contents, deploy_every=0):
        self.models = [self.model(generation, content) for generation, content in enumerate(contents)]
        self.queries = 0
        self._deploy_every = deploy_every
        self.error = None

    @staticmethod
    def model(generation, content=b"model", labels=LABELS, shape=SHAPE):
        return DeployedModel(generation, content, labels, shape)

    def newest_model(self, newer_than=-1, older_than=None):
        if self.error is not None:
            raise self.error
        self.queries += 1
        if self._deploy_every and self.queries % self._deploy_every == 0:
            self.models.append(self.model(len(self.models)))
        found = [each for each in self.models if older_than is None or each.generation < older_than]
        return found[-1] if found and found[-1].generation > newer_than else None


def companion(
    log: Any, models: Any = None, codec: Codec = "raw", job: Training | None = None, **options: Any
) -> Companion:
    defaults: dict[str, Any] = {"load": load, "decoder": PillowDecoder(), "runtime": "fake", "batch": 4}
    defaults["health"] = RecordingHealth()
    return Companion(
        TopologyInUse(topology(codec)),
        "pi",
        job or topology().jobs[0],
        log=log,
        models=models or cast("CheckpointStore", Models(b"model")),
        now_ms=lambda: NOW_MS,
        **defaults | options,
    )


@contextlib.asynccontextmanager
async def running(service):
    """The service runs inside; its own failure shows as it ends."""
    task = asyncio.get_running_loop().create_task(service.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def predictions(log):
    return [decode(record.value) for record in log.records(PREDICTIONS)]


async def reached(condition):
    """Wait, in fake time, until the condition holds."""
    async with asyncio.timeout(1000):
        while not condition():  # noqa: ASYNC110 - fake time, and nobody would set an event
            await asyncio.sleep(0.05)


async def caught_up(log):
    """Wait until the group has committed the end of both topics."""
    ends = {(GROUP, each): len(log.records(each.topic)) for each in (CAM, CAM_2)}
    await reached(lambda: log.committed_offsets.items() >= ends.items())


async def log_with(count, *, bad=True):
    """A log with `count` samples from two devices in turn, and records in between that are none."""
    log = MemoryLog(now_ms=lambda: int(NOW_MS) - 250)
    for i in range(count):
        await log.append([Message((CAM if i % 2 else CAM_2).topic, HIGH if i % 3 else LOW, key=b"high")])
        if bad and i < len(BAD):
            await log.append([BAD[i]])
    return log


def wanted(log):
    """(device, offset) of every usable record, each once."""
    bad = {(message.key, message.value) for message in BAD}
    return Counter(
        (topic.removeprefix("greenhouse.iot."), record.offset)
        for topic in (CAM.topic, CAM_2.topic)
        for record in log.records(topic)
        if (record.key, record.value) not in bad
    )


def published(log):
    return Counter((each.device, each.offset) for each in predictions(log))


@pytest.mark.looptime
async def test_what_is_in_partitions_that_come_later_is_predicted_once():
    """A topic gets more of them, or comes with more than the one that a missing topic is thought to have."""
    log = MemoryLog()
    async with running(companion(log)):
        await log.append([Message(CAM_2.topic, HIGH)])
        await reached(lambda: len(predictions(log)) == 1)
        await log.ensure([TopicSpec(CAM.topic, partitions=3)])
        await log.append([Message(CAM.topic, HIGH, partition=partition) for partition in (0, 1, 2)] * 3)
        await log.append([Message(CAM_2.topic, HIGH)])
        await reached(lambda: len(predictions(log)) >= 11)

    found = Counter((each.device, each.partition, each.offset) for each in predictions(log))
    assert found == Counter([("cam", partition, n) for partition in range(3) for n in range(3)]) + Counter(
        [("cam-2", 0, 0), ("cam-2", 0, 1)]
    )


@pytest.mark.looptime
async def test_a_prediction_has_its_sample_label_probability_generation_and_latency():
    log = await log_with(0)
    await log.append([Message(CAM.topic, b"\xff" * 3 + bytes(3) + b"", key=None), Message(CAM.topic, HIGH, key=b"low")])
    async with running(companion(log, Models(b"old", b"new"))):
        await reached(lambda: len(predictions(log)) == 2)
    record = log.records(PREDICTIONS)[1]
    value = json.loads(record.value)
    assert record.key == b"cam"
    assert value.pop("compute_ms") >= 0
    assert value == {
        "device": "cam",
        "partition": 0,
        "offset": 1,
        "incarnation": "id-1",
        "arrived_ms": 1_700_000_000_000,
        "label": "high",
        "probability": 1.0,
        "probabilities": {"high": 1.0, "low": 0.0},
        "generation": 1,
        "latency_ms": 250.0,
    }
    assert predictions(log)[0].probability == 0.5


@pytest.mark.looptime
async def test_what_a_device_named_its_sample_by_comes_back_with_the_prediction_of_that_sample():
    log = await log_with(0)
    given = (("edged-sample-id", b"a:7"), ("edged-response-topic", b"some/topic"), ("edged-correlation", b"\xff"))
    await log.append([Message(CAM.topic, HIGH), BAD[0], Message(CAM.topic, HIGH, headers=(*given, ("other", b"x")))])
    async with running(companion(log)):
        await caught_up(log)
    without, with_id = log.records(PREDICTIONS)
    assert [each.id for each in predictions(log)] == ["", "a:7"]
    assert [name for name, _value in without.headers] == ["edged-id"]
    assert with_id.headers[:-1] == given


@pytest.mark.looptime
async def test_a_latency_starts_at_the_arrival_and_an_absurd_one_is_left_out():
    log = await log_with(0)
    by_device = (times.sampled_header(int(NOW_MS) - 5_000_000),)
    for arrived_ms in (NOW_MS - 40, NOW_MS + 3_600_000, NOW_MS - 87_000_000, -1):
        await log.append([Message(CAM.topic, HIGH, headers=by_device, timestamp_ms=int(arrived_ms))])
    async with running(companion(log)):
        await reached(lambda: len(predictions(log)) == 4)
    assert [each.latency_ms for each in predictions(log)] == [40.0, None, None, 5_000_000.0]
    assert {each.sampled_ms for each in predictions(log)} == {int(NOW_MS) - 5_000_000}


@pytest.mark.looptime
async def test_exactly_the_samples_of_the_edges_devices_are_predicted_from_the_first_on():
    log = await log_with(10)
    await log.append([Message("greenhouse.iot.meter", bytes(16)), Message("greenhouse.iot.other", LOW)])
    service = companion(log)
    async with running(service):
        await caught_up(log)
        assert service.statistics().predicted_samples == 10
        assert service.statistics().lag_records == 0
    assert published(log) == wanted(log)
    assert [each.label for each in predictions(log) if each.device == "cam-2"] == ["low", "high", "high", "low", "high"]


@pytest.mark.looptime
async def test_records_that_ingest_rejects_are_skipped_and_counted(log_lines):
    log = await log_with(10)
    async with running(companion(log)):
        await caught_up(log)
    (line,) = log_lines("infer.predicted")
    assert (line["samples"], line["skipped"], line["labelled"]) == (10, len(BAD), 10)
    assert line["correct"] == sum(each.label == "high" for each in predictions(log))
    assert line["latency_p50_ms"] == line["latency_p95_ms"] == 250.0


@pytest.mark.looptime
async def test_images_are_decoded_and_damaged_ones_skipped():
    log = MemoryLog()
    image = encode(np.full((20, 30, 1), 255, np.uint8), "jpeg")
    await log.append([Message(CAM.topic, payload) for payload in (image[:-40], image, b"not an image")])
    await log.append([Message(CAM_2.topic, LOW)])
    async with running(companion(log, codec="jpeg")):
        await caught_up(log)
    assert {(each.device, each.offset): each.label for each in predictions(log)} == {
        ("cam", 1): "high",
        ("cam-2", 0): "low",
    }


@pytest.mark.looptime
async def test_samples_reach_the_model_normalised():
    log, model = await log_with(0), Brightness()
    await log.append([Message(CAM.topic, bytes([0, 51, 102, 153, 204, 255]))])
    async with running(companion(log, load=lambda content: model.predict)):
        await caught_up_with_one(log)
    assert model.sees[-1].dtype == np.float32
    np.testing.assert_allclose(model.sees[-1], np.array([[0, 0.2, 0.4, 0.6, 0.8, 1]]).reshape(1, *SHAPE), rtol=1e-6)


async def caught_up_with_one(log):
    await reached(lambda: len(predictions(log)) == 1)


@pytest.mark.looptime
async def test_records_wait_in_the_log_until_the_first_model(log_lines):
    log, models = await log_with(10), Models()
    service = companion(log, models)
    async with running(service):
        await asyncio.sleep(30.5)
        assert service.progress().idle
        assert service.progress().steps == 30
        assert models.queries == 31  # one a second: it does not spin
        assert log.committed_offsets == {}
        models.models.append(models.model(7))
        await caught_up(log)
    assert published(log) == wanted(log)
    assert len(log_lines("infer.waiting")) == 1
    assert [line["wait_for"] for line in log_lines("life.waiting")] == ["the first model of this node's trainer"]
    assert len(log_lines("life.waited")) == 1


@pytest.mark.looptime
async def test_a_newer_model_takes_over_between_batches(log_lines):
    log, models = await log_with(4, bad=False), Models(b"model")
    async with running(companion(log, models)):
        await caught_up(log)
        models.models.append(models.model(5, b"better"))
        await asyncio.sleep(2)
        await log.append([Message(CAM.topic, HIGH)])
        await caught_up(log)
    assert [each.generation for each in predictions(log)] == [0, 0, 0, 0, 5]
    assert [(line["generation"], line["model_bytes"], line["runtime"]) for line in log_lines("infer.model_loaded")] == [
        (0, 5, "fake"),
        (5, 6, "fake"),
    ]


@pytest.mark.looptime
async def test_a_new_model_at_every_look_loses_and_repeats_nothing():
    log = await log_with(40)
    async with running(companion(log, Models(b"model", deploy_every=1))):
        for _ in range(8):
            await caught_up(log)
            await log.append([Message(CAM.topic, HIGH)] * 2)
        await caught_up(log)
    assert published(log) == wanted(log)
    generations = [each.generation for each in predictions(log)]
    assert generations == sorted(generations)
    assert len(set(generations)) > 5


@pytest.mark.looptime
async def test_while_the_disk_fails_the_model_that_it_has_serves(log_lines):
    log, models, health = await log_with(2, bad=False), Models(b"model"), RecordingHealth()
    async with running(companion(log, models, health=health)):
        await caught_up(log)
        models.error = StorageError("Input/output error")
        await log.append([Message(CAM.topic, LOW), Message(CAM.topic, HIGH)])
        await caught_up(log)
        assert health.reasons == {"disk": "Input/output error"}
        models.models.append(models.model(1))
        models.error = None
        await reached(lambda: log_lines("infer.model_loaded")[-1]["generation"] == 1)
    assert published(log) == wanted(log)
    assert health.reasons == {}


@pytest.mark.looptime
async def test_a_disk_that_fails_before_there_is_a_model_is_waited_for(log_lines):
    log, models, health = await log_with(2, bad=False), Models(b"model"), RecordingHealth()
    models.error = StorageError("Input/output error")
    async with running(companion(log, models, health=health)):
        await health.until_degraded()
        models.error = None
        await caught_up(log)
    assert health.history == [("degraded", "disk"), ("recovered", "disk")]


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (Models.model(1, b"torn"), "not a model"),
        (Models.model(1, shape=(28, 28, 1)), "shape"),
        (Models.model(1, labels=("a", "b", "c")), "2 probabilities for 3 labels"),
    ],
)
async def test_a_model_that_cannot_serve_is_refused_once_and_the_old_one_stays(log_lines, refused, why):
    log, models = await log_with(2, bad=False), Models(b"model")
    async with running(companion(log, models)):
        await caught_up(log)
        models.models.append(refused)
        await asyncio.sleep(10)
        await log.append([Message(CAM.topic, HIGH)])
        await caught_up(log)
        models.models.append(models.model(2))
        await asyncio.sleep(2)
        await log.append([Message(CAM.topic, HIGH)])
        await caught_up(log)
    assert [each.generation for each in predictions(log)] == [0, 0, 0, 2]
    (line,) = log_lines("infer.model_refused")
    assert line["generation"] == 1
    assert why in line["reason"]


@pytest.mark.looptime
async def test_where_the_newest_model_is_refused_at_a_start_the_one_before_it_serves(log_lines):
    log, models = await log_with(2, bad=False), Models(b"model", b"model", b"torn", b"torn")
    async with running(companion(log, models)):
        await caught_up(log)
        models.models.append(models.model(4))
        await asyncio.sleep(2)
        await log.append([Message(CAM.topic, HIGH)])
        await caught_up(log)
    assert [each.generation for each in predictions(log)] == [1, 1, 4]
    assert [line["generation"] for line in log_lines("infer.model_refused")] == [3, 2]


class Unproven:
    """Opens b"model"; refuses b"torn"; of others the trial does not come to its end until `works`. Counts its calls."""

    def __init__(self):
        self.works = False
        self.calls = []

    def __call__(self, content):
        self.calls.append((asyncio.get_running_loop().time(), content))
        if content not in {b"model", b"torn"} and not self.works:
            raise NotProven("the probe did not run: [Errno 11] Resource temporarily unavailable")
        return load(content)

    def times(self, content):
        return [at_s for at_s, each in self.calls if each == content]


@pytest.mark.looptime
async def test_a_model_that_cannot_be_tried_out_now_is_tried_again_while_the_one_before_it_serves(log_lines):
    log, models, trial = await log_with(1, bad=False), Models(b"model"), Unproven()
    async with running(companion(log, models, load=trial)):
        await caught_up(log)
        models.models += [models.model(1, b"new"), models.model(2, b"torn")]
        await asyncio.sleep(3600)
        await log.append([Message(CAM.topic, HIGH)])
        await caught_up(log)
        trial.works = True
        await asyncio.sleep(600)
        await log.append([Message(CAM.topic, HIGH)])
        await caught_up(log)
        await asyncio.sleep(3600)
    assert [each.generation for each in predictions(log)] == [0, 0, 1]
    tries = trial.times(b"new")
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert 10 < len(tries) < 40, "seconds at first, then some minutes"
    assert pauses[0] < 7
    assert 100 < pauses[-1] < 310
    assert len(trial.times(b"torn")) == 1
    assert [line["generation"] for line in log_lines("infer.model_refused")] == [2]
    (said,) = log_lines("infer.model_unproven")
    assert (said["generation"], said["level"]) == (1, "warning")
    assert "Resource temporarily unavailable" in said["reason"]
    assert [(line["generation"], line["tries"]) for line in log_lines("infer.model_loaded")] == [
        (0, 1),
        (1, len(tries)),
    ]


@pytest.mark.looptime
async def test_the_first_model_is_tried_again_too(log_lines):
    log, models, trial = await log_with(1, bad=False), Models(b"new"), Unproven()
    async with running(companion(log, models, load=trial)):
        await asyncio.sleep(60)
        trial.works = True
        await caught_up(log)
    assert [each.generation for each in predictions(log)] == [0]
    assert len(log_lines("infer.model_unproven")) == 1


@pytest.mark.looptime
async def test_a_newer_model_is_not_kept_waiting_and_ends_the_trials_of_the_one_before():
    log, models, trial = await log_with(1, bad=False), Models(b"model", b"new"), Unproven()
    async with running(companion(log, models, load=trial)):
        await caught_up(log)
        await asyncio.sleep(300)
        models.models.append(models.model(2))
        await asyncio.sleep(2)
        await log.append([Message(CAM.topic, HIGH)])
        await caught_up(log)
        tries = len(trial.times(b"new"))
        await asyncio.sleep(3600)
    assert [each.generation for each in predictions(log)] == [0, 2]
    assert len(trial.times(b"new")) == tries


@pytest.mark.looptime
async def test_an_unproven_model_whose_file_is_gone_is_forgotten():
    log, models, trial = await log_with(1, bad=False), Models(b"model", b"new", b"torn"), Unproven()
    async with running(companion(log, models, load=trial)):
        await caught_up(log)
        del models.models[1]
        await asyncio.sleep(600)
        before = models.queries
        await asyncio.sleep(100)
        assert models.queries - before < 120, "one question at each poll, and no more trials"


@pytest.mark.looptime
async def test_one_that_the_last_resort_serves_is_taken_over_by_the_usual_runtime_once_it_can(log_lines):
    log, models, trial = await log_with(1, bad=False), Models(b"new"), Unproven()
    async with running(companion(log, models, load=trial, last_resort=("numpy", load))):
        await caught_up(log)
        await asyncio.sleep(600)
        trial.works = True
        await asyncio.sleep(600)
    loaded = [(line["generation"], line["runtime"]) for line in log_lines("infer.model_loaded")]
    assert loaded == [(0, "numpy"), (0, "fake")]


@pytest.mark.looptime
async def test_where_no_model_can_be_opened_as_usual_the_last_resort_serves_until_one_can(log_lines):
    def load_new(content):
        if content != b"new":
            raise FormatError("the probe ended with SIGILL")
        return Brightness().predict

    log, models = await log_with(1, bad=False), Models(b"torn", b"model", b"torn")
    async with running(companion(log, models, load=load_new, last_resort=("numpy", load))):
        await caught_up(log)
        for generation, content in ((3, b"model"), (4, b"new"), (5, b"model")):
            models.models.append(models.model(generation, content))
            await asyncio.sleep(2)
            await log.append([Message(CAM.topic, HIGH)])
            await caught_up(log)
    loaded = [(line["generation"], line["runtime"]) for line in log_lines("infer.model_loaded")]
    assert loaded == [(1, "numpy"), (3, "numpy"), (4, "fake")]
    assert [each.generation for each in predictions(log)] == [1, 3, 4, 4]


@pytest.mark.looptime
async def test_a_model_that_takes_long_to_open_is_waited_for_by_no_sample(monkeypatch):
    """As one that is proven first, on a slow machine."""
    slow = asyncio.get_running_loop().create_future()
    in_worker = asyncio.get_running_loop().run_in_executor

    def held(executor, function, *arguments):
        return slow if "_open_newest" in str(arguments) else in_worker(executor, function, *arguments)

    log, models = await log_with(1, bad=False), Models(b"model")
    async with running(companion(log, models)):
        await caught_up(log)
        monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", held)
        models.models.append(models.model(1))
        for number in range(2, 5):
            await asyncio.sleep(1)
            begun_s = asyncio.get_running_loop().time()
            await log.append([Message(CAM.topic, HIGH)])
            await reached(lambda number=number: len(predictions(log)) == number)
            assert asyncio.get_running_loop().time() - begun_s < 0.1
    assert [each.generation for each in predictions(log)] == [0, 0, 0, 0]


@pytest.mark.looptime
async def test_a_steady_stream_waits_for_commits_and_looks_at_the_models_only_now_and_then():
    log, models, committed = MemoryLog(), Models(b"model"), set()
    async with running(companion(log, models)):
        await asyncio.sleep(10)
        before = models.queries
        for _ in range(100):
            await log.append([Message(CAM.topic, HIGH)])
            await asyncio.sleep(0.1)
            committed.add(log.committed_offsets.get((GROUP, CAM)))
    assert len(predictions(log)) == 100
    assert 10 <= models.queries - before <= 21
    assert 10 <= len(committed) <= 25, "each second, or eight samples: two batches"


@pytest.mark.looptime
async def test_a_model_whose_file_disagrees_with_its_metadata_is_refused(log_lines):
    def other(x):
        raise ValueError("samples of another shape")

    log = await log_with(1)
    async with running(companion(log, load=lambda content: other)):
        await asyncio.sleep(3)
    assert "another shape" in log_lines("infer.model_refused")[0]["reason"]


@pytest.mark.looptime
async def test_a_model_whose_outputs_are_not_finite_is_refused(log_lines):
    def broken(x):
        return np.full((len(x), 2), np.nan, np.float32)

    log = await log_with(1)
    async with running(companion(log, load=lambda content: broken)):
        await asyncio.sleep(3)
    assert predictions(log) == []
    assert "not finite" in log_lines("infer.model_refused")[0]["reason"]


@pytest.mark.looptime
async def test_an_outage_of_the_broker_at_any_time_only_delays_predictions():
    log = await log_with(10)
    log.unavailable = True
    async with running(companion(log)) as task:
        await asyncio.sleep(60)
        log.unavailable = False
        await caught_up(log)
        log.unavailable = True
        await asyncio.sleep(60)
        log.unavailable = False
        await log.append([Message(CAM.topic, HIGH)])
        await caught_up(log)
        assert not task.done()
    assert published(log) == wanted(log)


class Crash(Exception):  # noqa: N818 - named for what happens
    """The process died here."""


class CrashingLog:
    """The log for a process that dies at its call number `at`: before its effect, after it, or halfway through."""

    def __init__(self, log, at, when):
        self._log, self._left, self._when = log, at, when

    def __getattr__(self, name):
        return self._dying(getattr(self._log, name))

    def _dying(self, method):
        async def call(*args, **kwargs):
            self._left -= 1
            if self._left == 0 and self._when == "halfway" and method.__name__ == "append":
                await method(args[0][: len(args[0]) // 2])
            if self._left == 0 and self._when == "after":
                await method(*args, **kwargs)
            if self._left <= 0:
                raise Crash
            return await method(*args, **kwargs)

        return call

    @contextlib.asynccontextmanager
    async def reader(self, positions, *, group=None, own=False):
        async with self._log.reader(positions, group=group, own=own) as reader:
            yield CrashingReader(reader, self)


class CrashingReader:
    def __init__(self, reader, log):
        self.lag, self.place, self.position = reader.lag, reader.place, reader.position
        self.poll, self.commit = log._dying(reader.poll), log._dying(reader.commit)


@pytest.mark.looptime
@pytest.mark.parametrize("when", ["before", "after", "halfway"])
async def test_a_crash_at_any_call_loses_and_repeats_nothing(when):
    calls = 0
    while True:
        calls += 1
        log = await log_with(14)
        crashed = await crash(companion(CrashingLog(log, calls, when), Models(b"model", deploy_every=2)))
        async with running(companion(log)):
            await caught_up(log)
        assert published(log) == wanted(log), f"crash {when} call {calls}"
        if not crashed:
            break
    assert calls > 15  # it went through start, several batches and the end


async def crash(service):
    """Run the service until it crashes; False when it has not for long after all was done."""
    try:
        async with asyncio.timeout(5):
            await service.run()
    except Crash:
        return True
    except TimeoutError:
        return False


@pytest.mark.looptime
async def test_a_crash_after_a_crash_loses_and_repeats_nothing():
    for first in range(1, 24, 2):
        for second in range(1, 12):
            log = await log_with(14)
            for at in (first, second):
                await crash(companion(CrashingLog(log, at, "after")))
            async with running(companion(log)):
                await caught_up(log)
            assert published(log) == wanted(log), f"crashes after calls {first} and {second}"


class PartitionByPartition(MemoryLog):
    """Readers exhaust one partition before the next, as Kafka's clients do."""

    @contextlib.asynccontextmanager
    async def reader(self, positions, *, group=None, own=False):
        async with super().reader(positions, group=group, own=own) as reader:
            take = reader._take

            def take_in_order(max_records):
                taken = take(max_records)
                reader._places = {each: reader._places[each] for each in positions}
                return taken

            reader._take = take_in_order  # type: ignore[method-assign]
            yield reader


@pytest.mark.looptime
async def test_a_second_crash_repeats_nothing_despite_one_devices_backlog():
    log = PartitionByPartition(now_ms=lambda: int(NOW_MS) - 250)
    await log.append([Message(CAM.topic, HIGH), Message(CAM_2.topic, HIGH)])
    service = companion(log)
    async with running(service):
        await caught_up(log)
    await log.append([Message(CAM_2.topic, HIGH)])
    await crash(companion(CrashingLog(log, 9, "before")))
    assert published(log) == wanted(log)
    assert log.committed_offsets[GROUP, CAM_2] == 1, "it died between publishing and committing"

    await log.append([Message(CAM.topic, HIGH)] * 100)
    for _ in range(2):
        await crash(companion(CrashingLog(log, 40, "before")))
    async with running(companion(log)):
        await caught_up(log)
    assert published(log) == wanted(log)


@pytest.mark.looptime
async def test_a_stop_amid_a_backlog_repeats_nothing_of_a_device_that_went_quiet_before_it():
    """As much as a restart finds is never left uncommitted."""
    log = MemoryLog()
    async with running(companion(log)):
        await asyncio.sleep(10)
        for topic, count in ((CAM.topic, 1), (CAM_2.topic, 1), (CAM.topic, 40)):  # the first has a commit due
            await log.append([Message(topic, HIGH)] * count)
            await reached(lambda: len(predictions(log)) == sum(wanted(log).values()))
    async with running(companion(log)):
        await caught_up(log)
    assert published(log) == wanted(log)


@pytest.mark.looptime
async def test_a_stop_at_any_moment_loses_and_repeats_nothing():
    for passes in range(40):
        log = await log_with(14)
        async with running(companion(log)):
            for _ in range(passes):
                await asyncio.sleep(0)
        async with running(companion(log)):
            await caught_up(log)
        assert published(log) == wanted(log), f"stopped after {passes} passes of the loop"


@pytest.mark.looptime
async def test_predictions_recovered_after_a_crash_are_logged(log_lines):
    log = await log_with(4, bad=False)
    with pytest.raises(Crash):
        await companion(CrashingLog(log, at=7, when="before")).run()
    assert len(predictions(log)) == 4
    assert log.committed_offsets == {}
    async with running(companion(log)):
        await caught_up(log)
    assert log_lines("infer.recovered")[0]["predictions"] == 4
    assert published(log) == wanted(log)


@pytest.mark.looptime
@pytest.mark.parametrize("keeps_commits", [True, False])
@pytest.mark.parametrize("count", [1, 9], ids=["shorter", "longer"])
@pytest.mark.parametrize("is_away", [True, False], ids=["away", "running"])
async def test_a_recreated_topic_is_predicted_from_its_beginning(count, keeps_commits, is_away, log_lines):
    log = await log_with(6, bad=False)

    async def recreate():
        await caught_up(log)
        commits = dict(log.commits)
        log.delete(CAM.topic)
        if keeps_commits:  # Kafka forgets them with the topic
            log.commits = commits
        await log.append([Message(CAM.topic, HIGH)] * count)

    async with running(companion(log)):
        await (caught_up(log) if is_away else recreate())
        if not is_away:
            await caught_up(log)
    if is_away:
        await recreate()
        async with running(companion(log)):
            await caught_up(log)

    found = Counter((each.device, each.incarnation, each.offset) for each in predictions(log))
    assert sum(found.values()) == 6 + count
    assert set(found.values()) == {1}
    told = [line["topic"] for line in log_lines("kafka.another_log")]
    assert told == ([CAM.topic] if keeps_commits or not is_away else [])


@pytest.mark.looptime
async def test_foreign_messages_among_the_predictions_do_no_harm():
    log = await log_with(4)
    await log.append([Message(PREDICTIONS, value) for value in (b"", b"[]", b"{}", b"\xff", b'{"device": 1}')])
    async with running(companion(log)):
        await caught_up(log)
    log.compact(TopicPartition(PREDICTIONS), 0, 5)
    assert published(log) == wanted(log)


def test_large_samples_get_smaller_batches():
    service = companion(MemoryLog(), batch=64)
    assert service._x.shape == (64, *SHAPE)
    assert companion(MemoryLog(), batch=10**7)._x.nbytes <= 8 << 20


def test_a_topology_that_trains_nothing_has_nothing_to_serve():
    with pytest.raises(ConfigError, match="nothing is trained"):
        served_job(topology(training=False), None)


def test_a_companion_serves_the_first_job_or_the_one_that_is_named():
    first, second = (replace(topology().jobs[0], name=name) for name in ("tiny", "large"))
    site = replace(topology(), jobs=(first, second))
    assert served_job(site, None) == first
    assert served_job(site, "large") == second
    with pytest.raises(ConfigError, match='no job is called "larg"') as error:
        served_job(site, "larg")
    assert 'did you mean "large"?' in str(error.value)


@pytest.mark.looptime
async def test_companions_of_two_jobs_predict_each_record_once_each_independently():
    """Neither takes the other's positions or predictions for its own, when it starts or starts again."""
    log = await log_with(8, bad=False)
    jobs = [replace(topology().jobs[0], name=name) for name in ("tiny", "large")]
    for job in (*jobs, *jobs):
        topic, records = topology().predictions_topic("pi", job.name), len(wanted(log))
        async with running(companion(log, job=job)):
            await reached(lambda topic=topic, records=records: len(log.records(topic)) == records)
    for job in jobs:
        found = [decode(record.value) for record in log.records(topology().predictions_topic("pi", job.name))]
        assert Counter((each.device, each.offset) for each in found) == wanted(log)
    assert not log.records(PREDICTIONS)


def autoencoders(log: Any, models: Any, **options: Any) -> Companion:
    """A companion of an autoencoder that knows dark samples alone: it gives 0 back for whatever it sees."""
    site = topology()
    trained = replace(site.jobs[0], loss="mean_squared_error", model=(Flatten(), Dense(6)))
    defaults: dict[str, Any] = {"load": lambda content: np.zeros_like, "decoder": PillowDecoder(), "runtime": "fake"}
    return Companion(
        TopologyInUse(site),
        "pi",
        trained,
        log=log,
        health=RecordingHealth(),
        models=models,
        now_ms=lambda: NOW_MS,
        **defaults | options,
    )


@pytest.mark.looptime
async def test_an_autoencoder_gives_anomaly_scores(log_lines):
    log, models = await log_with(0), Models()
    models.models.append(DeployedModel(4, b"autoencoder", (), SHAPE, 0.25))
    await log.append([Message(CAM.topic, LOW), Message(CAM.topic, HIGH, key=b"high")])
    await log.append([Message(CAM.topic, bytes([255, 255, 255, 0, 0, 0]))])
    async with running(autoencoders(log, models)):
        await reached(lambda: len(predictions(log)) == 3)
    assert [each.anomaly for each in predictions(log)] == [0.0, 1.0, 0.5]
    assert [each.is_anomalous for each in predictions(log)] == [False, True, True]
    value = json.loads(log.records(PREDICTIONS)[1].value)
    assert value.pop("compute_ms") >= 0
    assert value == {
        "device": "cam",
        "partition": 0,
        "offset": 1,
        "incarnation": "id-1",
        "arrived_ms": 1_700_000_000_000,
        "generation": 4,
        "latency_ms": 250.0,
        "anomaly": 1.0,
        "anomaly_threshold": 0.25,
    }
    (line,) = log_lines("infer.predicted")
    assert (line["samples"], line["anomalous"], line["labelled"], line["correct"]) == (3, 2, 0, 0)


@pytest.mark.looptime
async def test_without_held_out_samples_scores_have_no_threshold():
    log, models = await log_with(0), Models()
    models.models.append(DeployedModel(0, b"autoencoder", (), SHAPE))
    await log.append([Message(CAM.topic, HIGH)])
    async with running(autoencoders(log, models)):
        await caught_up_with_one(log)
    (prediction,) = predictions(log)
    assert (prediction.anomaly, prediction.anomaly_threshold, prediction.is_anomalous) == (1.0, None, False)


@pytest.mark.looptime
async def test_a_model_of_the_other_kind_is_refused(log_lines):
    autoencoder = DeployedModel(1, b"model", (), SHAPE)
    models = Models()
    models.models.append(autoencoder)
    async with running(companion(await log_with(1), models)):
        await asyncio.sleep(3)
    async with running(autoencoders(await log_with(1), Models(b"model"))):
        await asyncio.sleep(3)
    assert [line["reason"] for line in log_lines("infer.model_refused")] == [
        "it is an autoencoder, the topology trains a classifier",
        "it is a classifier, the topology trains an autoencoder",
    ]
    async with running(autoencoders(await log_with(1), models, load=lambda content: lambda x: x[:, :1])):
        await asyncio.sleep(3)
    assert log_lines("infer.model_refused")[-1]["reason"] == "it gives 3 numbers back for a sample of 6"
