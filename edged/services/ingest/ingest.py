"""Reads the records of an edge's devices; each becomes a valid sample or a dead letter.

Covers checking in a worker. See also: `uplink` (where reading starts, what becomes of the samples), `reading` (which
partitions there are), `domain.samples.codec` (the rules), `dead_letters`.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from edged.aio import run_in_worker
from edged.domain.place import Place, is_continued
from edged.domain.samples import codec, times
from edged.domain.samples.cursors import cursor_key
from edged.domain.samples.sample import Sample
from edged.domain.samples.times import UNKNOWN_MS
from edged.domain.text import shown
from edged.errors import RejectedRecord
from edged.log import Throttle, ThrottledLog
from edged.ports import ImageDecoder, Log, LogReader, Record, TopicPartition
from edged.reading import Partitions
from edged.services.ingest.dead_letters import DeadLetter, DeadLetters
from edged.settings import TopologyInUse

MAX_RECORDS = 256

_MAX_CHECKED_RECORDS = 64
_MAX_CHECKED_BYTES = 1 << 20
"""Checked in one call of a worker: a stop has to wait for it."""


class Checked(NamedTuple):
    """A record, checked, and the place after it."""

    result: Sample | DeadLetter
    place: Place


class Ingest:
    """Reads the topics of all devices of one edge."""

    def __init__(self, log: Log, in_use: TopologyInUse, edge: str, decoder: ImageDecoder) -> None:
        topology = in_use.topology
        self._in_use = in_use
        self._edge = edge
        self._log = log
        self._decoder = decoder
        self._known = topology
        self._devices = {topology.device_topic(device.name): device for device in topology.devices_of(edge)}
        self._stream_of = {device.name: device.stream for device in self._devices.values()}
        self._streams = {device.stream: topology.stream(device.stream) for device in self._devices.values()}
        self._dead_letters = DeadLetters(log, topology.dead_letters_topic(edge), len(topology.devices_of(edge)))
        self._group = topology.group("ingest", edge)
        self.partitions = Partitions(log, self._topics)
        """Of the devices' topics."""
        self._reader: LogReader | None = None
        self._partition_of: Mapping[str, TopicPartition] = {}
        self._num_checked = 0
        self._num_timeless: Counter[str] = Counter()
        self._lines = ThrottledLog(Throttle(max_kinds=max(1, len(topology.devices_of(edge)))))
        self._busy = False

    def _topics(self) -> Collection[str]:
        """The devices' topics, with those of devices that a reload has brought: they publish streams of others here."""
        topology = self._in_use.topology
        if topology is not self._known:
            self._known = topology
            self._devices |= {topology.device_topic(each.name): each for each in topology.devices_of(self._edge)}
            self._stream_of = {device.name: device.stream for device in self._devices.values()}
        return self._devices

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams of the edge's devices."""
        return tuple(self._streams)

    @property
    def busy(self) -> bool:
        """Whether records are being checked now, rather than waited for."""
        return self._busy

    @property
    def num_checked(self) -> int:
        """Records checked since start."""
        return self._num_checked

    @property
    def num_rejected(self) -> int:
        """Records dead-lettered since start."""
        return self._dead_letters.num_sent

    def stream_of(self, device: str) -> str:
        """The device's stream; empty for a device of another edge."""
        return self._stream_of.get(device, "")

    def lag_by_topic(self) -> dict[str, int]:
        """Records waiting in each device's topic that has any; none while nothing is read."""
        return self._reader.lag_by_topic() if self._reader else {}

    @asynccontextmanager
    async def reading(
        self,
        partitions: frozenset[TopicPartition],
        cursors: Mapping[str, Sequence[Place]],
        is_trusted: Callable[[str, str], bool],
    ) -> AsyncIterator[Mapping[str, Place]]:
        """Open these partitions for `batch`; yields the start of each, by "device/partition".

        The start is the furthest of the cursors and of what the group has committed, which may be further, as after a
        run of dead letters, which leave no other trace; a partition with neither is read from offset 0.
        `is_trusted`: of a device and the note of its commit, whether that counts.
        """
        committed = await self._log.committed(self._group, partitions)
        keys = {cursor_key(self._devices[each.topic].name, each.partition): each for each in sorted(partitions)}
        start = {}
        for key, each in keys.items():
            kept = list(cursors.get(key, ()))
            if each in committed and is_trusted(self._devices[each.topic].name, committed[each].note):
                kept.append(committed[each].place)
            start[key] = await self._furthest(each, kept)
        async with self._log.reader({keys[key]: place for key, place in start.items()}, group=self._group) as reader:
            self._reader, self._partition_of = reader, keys
            try:
                yield start
            finally:
                self._reader, self._partition_of = None, {}

    async def batch(self, timeout_s: float) -> list[Checked]:
        """The next records, checked, in the order of each partition; empty when none came within `timeout_s`.

        The rejected ones are acknowledged in the dead-letter topic when it returns. Images have been decoded once,
        in a worker thread, to prove them whole. Cancelled: what was read is delivered again once `reading` is
        entered again, and dead letters may then be written twice.
        """
        assert self._reader is not None, "batch() belongs within reading()"
        records = await self._reader.poll(max_records=MAX_RECORDS, timeout_s=timeout_s)
        checked = await self._check_records(records)
        await self._dead_letters.send(
            (record, each.result)
            for record, each in zip(records, checked, strict=True)
            if isinstance(each.result, DeadLetter)
        )
        self._report_times(records, checked)
        return checked

    async def reject(self, sample: Sample, reason: str, detail: str) -> None:
        """Acknowledge in the dead-letter topic a sample that had passed. Cancelled: it may be there or not."""
        topic = next(topic for topic, device in self._devices.items() if device.name == sample.device)
        key = None if sample.label is None else sample.label.encode()
        record = Record(
            topic,
            sample.partition,
            sample.offset,
            sample.arrived_ms,
            key,
            sample.payload,
            incarnation=sample.incarnation,
        )
        letter = DeadLetter(sample.device, sample.partition, sample.offset, reason, detail)
        await self._dead_letters.send([(record, letter)])

    async def commit(self, cursors: Mapping[str, Place], note: str) -> None:
        """Commit the cursors of the partitions being read to the group. Cancelled: committed or not."""
        assert self._reader is not None, "commit() belongs within reading()"
        places = {self._partition_of[key]: place for key, place in cursors.items() if key in self._partition_of}
        await self._reader.commit(places, note)

    async def _furthest(self, partition: TopicPartition, kept: Sequence[Place]) -> Place:
        """The furthest of these places that is of the log as it is now; the furthest of all if none is."""
        ordered = sorted(kept, key=lambda place: (place.offset, place.is_named), reverse=True)
        if len({place.incarnation for place in ordered if place.is_named}) > 1:
            for place in ordered:
                if is_continued(place, (await self._log.resume({partition: place}))[partition]):
                    return place
        return ordered[0] if ordered else Place(0)

    def _report_times(self, records: Sequence[Record], checked: Sequence[Checked]) -> None:
        """Log of which devices samples are taken without a time, though they have one that is none."""
        for record, (result, _place) in zip(records, checked, strict=True):
            if isinstance(result, Sample) and result.sampled_ms is None:
                value = times.given(record.headers)
                if value is not None:
                    self._num_timeless[result.device] += 1
                    self._lines.warning(
                        "ingest.time_ignored",
                        result.device,
                        device=result.device,
                        value=f"{shown(value.decode(errors='replace')):.80}",
                        samples=self._num_timeless[result.device],
                    )

    async def _check_records(self, records: Sequence[Record]) -> list[Checked]:
        checked: list[Checked] = []
        self._busy = True
        try:
            for part in self._parts(records):
                if all(self._devices[record.topic].codec == "raw" for record in part):
                    checked += self._check_all(part)
                else:
                    checked += await run_in_worker(self._check_all, part)
                self._num_checked += len(part)
        finally:
            self._busy = False
        return checked

    def _parts(self, records: Sequence[Record]) -> Iterator[list[Record]]:
        """The records in pieces for one call of a worker each."""
        part: list[Record] = []
        num_bytes = 0
        for record in records:
            part.append(record)
            num_bytes += len(record.value)
            if len(part) == _MAX_CHECKED_RECORDS or num_bytes >= _MAX_CHECKED_BYTES:
                yield part
                part, num_bytes = [], 0
        if part:
            yield part

    def _check_all(self, records: Sequence[Record]) -> list[Checked]:
        return [Checked(self._check(record), record.place_after()) for record in records]

    def _check(self, record: Record) -> Sample | DeadLetter:
        device = self._devices[record.topic]
        stream = self._streams[device.stream]
        try:
            label = codec.check_record(record.key, record.value, stream, device.codec)
            if device.codec != "raw":
                self._decoder.decode(record.value, device.codec, stream.shape)
        except RejectedRecord as error:
            return DeadLetter(device.name, record.partition, record.offset, error.reason, error.detail)
        arrived_ms = max(record.timestamp_ms, UNKNOWN_MS)  # Kafka takes any number of a client
        sampled_ms = times.sampled_ms(record.headers)
        place = device.name, record.partition, record.offset
        return Sample(*place, arrived_ms, label, device.codec, record.value, sampled_ms, record.incarnation)
