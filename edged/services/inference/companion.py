"""The companion: predicts the samples of an edge's devices with the newest model that the trainer deployed.

Covers reading, predicting and publishing. Does not train, and writes no dead letters: ingest does. See also:
`served_model` (which model serves), `published` (recovery after a crash).
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edged.aio import LongWait, run_in_worker
from edged.domain.place import Place
from edged.domain.samples import codec, prediction, times
from edged.domain.samples.prediction import Identity, Prediction
from edged.domain.samples.returned import returned, sample_id
from edged.domain.suggest import did_you_mean
from edged.domain.topology import MIB, Device, Topology, Training
from edged.errors import ConfigError, Problem, RejectedRecord
from edged.log import logger
from edged.ports import (
    CheckpointStore,
    Health,
    ImageDecoder,
    Log,
    LogReader,
    Message,
    Progress,
    Record,
    Statistics,
    TopicPartition,
)
from edged.reading import Partitions
from edged.services.inference.published import newest_published, record_at
from edged.services.inference.report import InferReport
from edged.services.inference.served_model import Load, Model, ServedModel
from edged.settings import TopologyInUse

_COMMIT_S, _COMMITTED_BATCHES = 1.0, 2
"""A commit is due after this time, or this number of full batches: Kafka holds each one back for 5 ms by default, to
write several at once, and the next samples wait."""

_RECOVERED_BATCHES = 2 * (_COMMITTED_BATCHES + 1)
"""Batches that a restart searches for predictions whose positions were not committed. Half would suffice but for crash
after crash, each with published batches of other devices' records."""

_MAX_BATCH_BYTES = 8 * MIB
"""Bytes of a batch as float32; large samples get smaller batches."""


class _Result(NamedTuple):
    """A usable record, its label as published (None: unlabelled), and the output of `Model.predict` for it."""

    record: Record
    label: str | None
    predicted: npt.NDArray[np.float32]


def unix_ms() -> float:
    """Unix time in milliseconds."""
    return time.time_ns() / 1e6


def served_job(topology: Topology, name: str | None) -> Training:
    """The job of that name; the first one for None. Raises ConfigError when there is none."""
    if not topology.jobs:
        raise ConfigError((Problem("training", "nothing is trained, so the companion has no model to serve"),))
    names = [job.name for job in topology.jobs]
    if name is None:
        return topology.jobs[0]
    if name not in names:
        hint = did_you_mean(name, names) or f"known: {', '.join(filter(None, names)) or 'one job without a name'}"
        raise ConfigError((Problem("training", f'no job is called "{name}"', hint),))
    return topology.jobs[names.index(name)]


class Companion:
    """Serves those devices of one edge whose stream is trained.

    Every usable record is predicted exactly once, from offset 0 on, also of a topic that was recreated. For each batch:
    poll, predict, publish. Positions are committed about once a second, and when no records come.
    After a crash it resumes from the committed positions, and skips records whose predictions are at the end of the
    predictions topic. It takes up a newer model after reading a batch, so each record has one model, and a change
    neither loses nor repeats a record. Nothing is read before the first model.
    """

    def __init__(
        self,
        in_use: TopologyInUse,
        edge: str,
        training: Training,
        *,
        log: Log,
        models: CheckpointStore,
        health: Health,
        load: Load,
        decoder: ImageDecoder,
        runtime: str,
        batch: int = 64,
        poll_s: float = 1.0,
        report_s: float = 10.0,
        now_ms: Callable[[], float] = unix_ms,
        last_resort: tuple[str, Load] | None = None,
    ) -> None:
        """`training`: the job whose models serve. `load`, `runtime` and `last_resort`: as in ServedModel.

        `batch`: maximum of samples per batch; `poll_s`: maximum wait for records; `report_s`: interval of its lines.
        """
        topology = in_use.topology
        self._stream = topology.stream(training.stream)
        self._in_use = in_use
        self._edge = edge
        self._known: Topology | None = None
        self._device_of_topic: dict[str, Device] = {}
        self._group = topology.group("infer", edge, training.name)
        self._predictions = TopicPartition(topology.predictions_topic(edge, training.name))
        self._log = log
        self._model = ServedModel(models, health, load, self._stream.shape, runtime, training.loss, last_resort)
        self._decoder = decoder
        self._batch = max(1, min(batch, _MAX_BATCH_BYTES // (4 * int(np.prod(self._stream.shape)))))
        self._poll_s = poll_s
        self._now_ms = now_ms
        self._x = np.zeros((self._batch, *self._stream.shape), np.float32)
        self._reader: LogReader | None = None
        self._partitions = Partitions(log, self._topics)
        self._places: dict[TopicPartition, Place] = {}
        self._published: set[Identity] = set()
        self._committed: dict[TopicPartition, int] = {}
        self._commit_s = 0.0
        self._num_uncommitted = 0
        self._report = InferReport(report_s)
        self._progress = Progress(0, idle=True)
        self._num_predicted = 0

    def _topics(self) -> Collection[str]:
        """The topics of the devices that are served, with those of devices that a reload has brought."""
        topology = self._in_use.topology
        if topology is not self._known:
            self._known = topology
            self._device_of_topic |= {
                topology.device_topic(device.name): device
                for device in topology.devices_of(self._edge)
                if device.stream == self._stream.name
            }
        return self._device_of_topic

    def progress(self) -> Progress:
        """For the watchdog; idle without a model or without records."""
        return self._progress

    def statistics(self) -> Statistics:
        """Samples predicted since the start, and the records waiting."""
        lag = {} if self._reader is None else self._reader.lag_by_topic()
        return Statistics(predicted_samples=self._num_predicted, lag_by_topic=lag)

    async def run(self) -> None:
        """Predict until cancelled. Cancelled at any point: the next run resumes without loss or repetition."""
        partitions = await self._resume()
        await self._wait_for_model()
        self._report.begin(asyncio.get_running_loop().time())
        try:
            while True:
                start = {each: self._places[each] for each in partitions}
                async with self._log.reader(start, group=self._group) as reader:
                    self._reader = reader
                    await self._read(reader, partitions)
                partitions = await self._partitions.look()
                self._places |= await self._committed_places(partitions - self._places.keys())
        finally:
            self._reader = None
            self._report.write(asyncio.get_running_loop().time())

    async def _read(self, reader: LogReader, partitions: frozenset[TopicPartition]) -> None:
        """Predict what is in these partitions until there are others."""
        while await self._partitions.are_still(partitions):
            await self._next_batch(reader, partitions)
            self._report.write_if_due(asyncio.get_running_loop().time())
        self._places |= {each: reader.place(each) for each in partitions}

    async def _resume(self) -> frozenset[TopicPartition]:
        """Determine the partitions, the positions to resume from, and what was published after them."""
        partitions = await self._partitions.look()
        self._places = await self._committed_places(partitions)
        self._published = await newest_published(self._log, self._predictions, limit=_RECOVERED_BATCHES * self._batch)
        resumed = await self._log.resume(self._places)
        not_committed = [each for each in self._published if self._is_after(each, resumed)]
        if not_committed:
            logger().info("infer.recovered", predictions=len(not_committed))
            await self._commit_published(not_committed)
        return partitions

    async def _committed_places(self, partitions: frozenset[TopicPartition]) -> dict[TopicPartition, Place]:
        committed = await self._log.committed(self._group, partitions)
        return {each: committed[each].place if each in committed else Place(0) for each in partitions}

    async def _commit_published(self, not_committed: Sequence[Identity]) -> None:
        """Commit the place after each partition's last prediction, and resume there.

        Otherwise the backlog of one device could keep another's predictions uncommitted until, at the next crash, they
        are no longer among the newest. A partition whose record there is not the predicted one is left unchanged: it
        has become another log.
        """
        last = {self._partition(each): each for each in sorted(not_committed, key=lambda each: each.offset)}
        for partition, identity in last.items():
            record = await record_at(self._log, partition, identity.offset)
            if record is not None and self._identity(record) == identity:
                self._places[partition] = record.place_after()
        async with self._log.reader({}, group=self._group) as reader:
            await reader.commit(self._places)

    def _partition(self, identity: Identity) -> TopicPartition:
        topic = next((topic for topic, each in self._device_of_topic.items() if each.name == identity.device), "")
        return TopicPartition(topic, identity.partition)

    def _is_after(self, identity: Identity, places: Mapping[TopicPartition, Place]) -> bool:
        """Whether the sample comes after the place of its partition, in the same log."""
        place = places.get(self._partition(identity))
        return place is not None and place.incarnation == identity.incarnation and place.offset <= identity.offset

    async def _wait_for_model(self) -> None:
        await self._model.take_newest(self._poll_s)
        if self._model.current is None:
            logger().info("infer.waiting")
        wait = LongWait()
        while self._model.current is None:
            wait.goes_on("the first model of this node's trainer")
            await asyncio.sleep(self._poll_s)  # a folder does not notify of new files
            self._progress = Progress(self._progress.steps + 1, idle=True)
            await self._model.take_newest(self._poll_s)
        wait.is_over()

    async def _next_batch(self, reader: LogReader, partitions: frozenset[TopicPartition]) -> None:
        """1. poll, 2. predict, 3. publish, 4. commit if due. After a crash between 3 and 4 the next run skips 3."""
        records = await reader.poll(max_records=self._batch, timeout_s=self._poll_s)
        self._progress = Progress(self._progress.steps + 1, idle=not records)
        await self._model.take_newest()
        if not records:
            await self._commit_passed(reader, partitions)
            return
        assert self._model.current is not None
        unpublished = [record for record in records if self._identity(record) not in self._published]
        results, compute_ms = await self._predict(self._model.current, unpublished)
        if results:
            await self._publish(self._model.current, results, compute_ms)
        self._num_uncommitted += len(results)
        if self._is_commit_due:
            await self._commit(reader, partitions)
        self._published.difference_update(map(self._identity, records))
        self._report.skipped(len(unpublished) - len(results))

    @property
    def _is_commit_due(self) -> bool:
        is_time = asyncio.get_running_loop().time() >= self._commit_s
        return is_time or self._num_uncommitted >= _COMMITTED_BATCHES * self._batch

    async def _commit(self, reader: LogReader, partitions: frozenset[TopicPartition]) -> None:
        """All partitions, so that a quiet device's offset does not expire."""
        self._committed = {each: reader.position(each) for each in partitions}
        await reader.commit({each: reader.place(each) for each in partitions})
        self._num_uncommitted = 0
        self._commit_s = asyncio.get_running_loop().time() + _COMMIT_S

    async def _commit_passed(self, reader: LogReader, partitions: frozenset[TopicPartition]) -> None:
        """Commit what is left to be, and the offsets of what is no record: lag tools would count them for ever."""
        if any(reader.position(each) != self._committed.get(each, 0) for each in partitions):
            await self._commit(reader, partitions)

    def _identity(self, record: Record) -> Identity:
        device = self._device_of_topic[record.topic].name
        return Identity(device, record.partition, record.offset, record.timestamp_ms, record.incarnation)

    async def _predict(self, model: Model, records: Sequence[Record]) -> tuple[list[_Result], float]:
        began_s = asyncio.get_running_loop().time()
        results = await run_in_worker(self._results, model, records) if records else []
        return results, (asyncio.get_running_loop().time() - began_s) * 1000

    def _results(self, model: Model, records: Sequence[Record]) -> list[_Result]:
        """Decode and predict, in a worker thread; records that ingest rejects are skipped."""
        usable: list[tuple[Record, str | None]] = []
        for record in records:
            try:
                usable.append((record, self._decode(record, self._x[len(usable)])))
            except RejectedRecord:
                continue
        if not usable:
            return []
        predicted = model.predict(self._x[: len(usable)])
        is_finite = np.isfinite(predicted).all(axis=1)
        return [_Result(*each, p) for each, p, finite in zip(usable, predicted, is_finite, strict=True) if finite]

    def _decode(self, record: Record, x: npt.NDArray[np.float32]) -> str | None:
        """Decode and normalise the record's sample into `x`; return its label. Raises RejectedRecord."""
        device = self._device_of_topic[record.topic]
        label = codec.check_record(record.key, record.value, self._stream, device.codec)
        if device.codec == "raw":
            pixels = codec.decode_raw(record.value, self._stream)
        else:
            pixels = self._decoder.decode(record.value, device.codec, self._stream.shape)
        codec.normalise(pixels, out=x)
        return label

    async def _publish(self, model: Model, results: Sequence[_Result], compute_ms: float) -> None:
        now_ms = self._now_ms()
        predictions = [self._prediction(model, result, now_ms, compute_ms) for result in results]
        await self._log.append(
            [
                Message(
                    self._predictions.topic,
                    prediction.encode(each),
                    key=each.device.encode(),
                    headers=returned(result.record.headers),
                )
                for each, result in zip(predictions, results, strict=True)
            ]
        )
        self._num_predicted += len(results)
        self._report.predicted(predictions, [result.label for result in results])

    def _prediction(self, model: Model, result: _Result, now_ms: float, compute_ms: float) -> Prediction:
        record = result.record
        probabilities = prediction.most_probable(result.predicted.tolist(), model.labels) if model.labels else {}
        label = next(iter(probabilities), None)
        sampled_ms = times.sampled_ms(record.headers)
        latency_ms = times.latency_ms(record.timestamp_ms, sampled_ms, now_ms)
        return Prediction(
            device=self._device_of_topic[record.topic].name,
            partition=record.partition,
            offset=record.offset,
            arrived_ms=record.timestamp_ms,
            sampled_ms=sampled_ms,
            label=label,
            probability=None if label is None else probabilities[label],
            probabilities=probabilities,
            generation=model.generation,
            latency_ms=None if latency_ms is None else round(latency_ms, 3),
            compute_ms=round(compute_ms, 3),
            anomaly=None if model.labels else float(result.predicted[0]),
            anomaly_threshold=model.anomaly_threshold,
            incarnation=record.incarnation,
            id=sample_id(record.headers),
        )
