"""Brings one device's packets into its Kafka topic, each acknowledged to the MQTT broker behind Kafka's own word.

Covers the order of durable steps, doubles, and what happens while Kafka is away. See also: `records` (what a packet
becomes), `domain.mqtt.identity` (which were there already), `services.ingest` (what becomes of the records).

Steps, for what was received together:
1. Kafka holds the records; those that cannot be any, the dead-letter topic
2. the broker gets the acknowledgements, in the order received
3. the device gets its receipts (see `receipts`)
A crash before 2 has the broker send the packets again: what has an id is recognised, by the ids in the topic's tail,
and what has none is written twice, and marked (`edged-double`). A crash before 3 has the device send again, if it waits
for receipts.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby

from edged.domain.mqtt import topics
from edged.domain.mqtt.properties import DOUBLE_HEADER
from edged.domain.mqtt.resent import Origin, Resent
from edged.domain.samples.returned import MAX_VALUE_BYTES
from edged.domain.topology import Device, Topology
from edged.errors import RecordTooLarge, RejectedRecord
from edged.log import logger
from edged.ports import Log, MqttSession, Packet, Progress, Record, TopicPartition
from edged.services.ingest.dead_letters import DeadLetter, DeadLetters
from edged.services.mqtt.bridge_report import BridgeReport
from edged.services.mqtt.known_ids import KnownIds
from edged.services.mqtt.receipts import Receipts
from edged.services.mqtt.records import TOO_LARGE, Incoming, Intake, Reader

PATIENCE_S = 20.0
"""How long a device's connection is held while Kafka takes nothing. A broker resends at a new connection alone, and may
hang up on a client that it does not hear of: it keeps the packets as well without one."""

_POLL_S = 1.0


class DeviceBridge:
    """Of one device. `session`: its own, entered by who made this."""

    def __init__(
        self,
        log: Log,
        topology: Topology,
        device: Device,
        session: MqttSession,
        *,
        dead_letters: DeadLetters,
        report: BridgeReport,
    ) -> None:
        assert topology.mqtt is not None
        self._log = log
        self._device = device
        self._session = session
        self._dead_letters = dead_letters
        self._report = report
        self._window = topology.mqtt.window
        self._topic = topology.device_topic(device.name)
        self.receipts = Receipts(session, topics.receipts_topic(topology.site, device.name), device.name, report)
        """What is sent beside it, by a task of its own."""
        self._client_id = topics.bridge_client_id(topology.site, device.edge, device.name)
        self._reader = Reader(topology.site, device, self._topic)
        self._known_ids = KnownIds(device, report)
        self._resent = Resent()
        self._num_steps = 0

    def progress(self) -> Progress:
        """Steps are packets taken. Always idle: it waits for packets or for Kafka."""
        return Progress(self._num_steps, idle=True)

    async def run(self) -> None:
        """Take packets until cancelled. Waits while Kafka is away. Cancelled: the broker sends them again."""
        with self._patient():
            has_records = await self._fill()
        is_told = not has_records
        while True:
            packets = await self._session.receive(max_packets=self._window, timeout_s=_POLL_S)
            if not is_told and self._session.was_resumed is not None:
                is_told = True
                if not self._session.was_resumed:
                    logger().warning("mqtt.session_lost", client=self._client_id)
            if packets:
                await self._take(packets)
                self._num_steps += len(packets)

    async def _fill(self) -> bool:
        """Learn the ids in the topic's tail; whether there are records."""
        partition = TopicPartition(self._topic)
        low, _stable, high = (await self._log.watermarks([partition]))[partition]
        await self._known_ids.fill(self._log, partition)
        return high > low

    async def _take(self, packets: Sequence[Packet]) -> None:
        intakes = self._sorted(packets)
        with self._patient():
            await self._append([sample for intake in intakes for sample in intake.samples])
            await self._dead_letters.send(self._letters(intakes))
        self._acknowledge(packets)
        self.receipts.add(self._receipts(intakes))

    def _sorted(self, packets: Sequence[Packet]) -> list[Intake]:
        """What the packets become, but those that are in Kafka already, and those that say nothing new."""
        intakes = []
        for packet in packets:
            origin: Origin = "new"
            if packet.packet_id:
                origin = self._resent.arrived(packet.session, packet.packet_id, is_resent=packet.is_resent)
            if origin == "written":
                continue
            if packet.is_retained:
                self._report.bridged.retained += 1
                continue
            intake = self._without_known(self._reader.read(packet))
            self._report.bridged.packs += intake.is_pack
            if origin == "unknown" and self._may_be_of_earlier_process(packet):
                self._mark(intake)
            intakes.append(intake)
        return intakes

    def _may_be_of_earlier_process(self, packet: Packet) -> bool:
        return packet.session > 1 or self._session.was_resumed is True

    def _without_known(self, intake: Intake) -> Intake:
        """Without the samples whose ids are known. Of a packet with an id that is none, nothing is taken."""
        for sample in intake.samples:
            try:
                self._known_ids.check(sample.id)
            except RejectedRecord as error:
                return Intake(intake.packet, (), intake.wants_receipts, error, sample.id)
        fresh = []
        for sample in intake.samples:
            if self._known_ids.is_known(sample.id):
                intake.known_ids.append(sample.id)
            else:
                fresh.append(sample)
        intake.samples = fresh
        return intake

    def _mark(self, intake: Intake) -> None:
        """Give a header to each sample that may be there already. Ids would have told."""
        has_ids = self._device.id != "none"
        doubtful = [sample for sample in intake.samples if not (sample.id and has_ids)]
        for sample in doubtful:
            sample.message = replace(sample.message, headers=(*sample.message.headers, (DOUBLE_HEADER, b"1")))
        if doubtful:
            self._report.doubles(self._device.name, len(doubtful))

    async def _append(self, samples: Sequence[Incoming]) -> None:
        """Write them; those that the topic does not take have a refusal afterwards."""
        pending = list(samples)
        while pending:
            try:
                await self._log.append([sample.message for sample in pending], refuse_too_large=True)
            except RecordTooLarge as error:
                refused = pending.pop(error.index)
                del pending[: len(error.written)]
                refused.refusal = TOO_LARGE
                self._known_ids.refuse(refused.id, TOO_LARGE)
            else:
                break
        written = [sample for sample in samples if not sample.refusal]
        self._report.written(len(written), sum(len(sample.message.value) for sample in written))

    def _letters(self, intakes: Sequence[Intake]) -> list[tuple[Record, DeadLetter]]:
        letters = [
            self._letter(intake.packet.topic, intake.packet.payload, None, intake.rejected)
            for intake in intakes
            if intake.rejected is not None
        ]
        detail = f"the topic {self._topic} does not take it"
        letters += [
            self._letter(self._topic, sample.message.value, sample.message.key, RejectedRecord(sample.refusal, detail))
            for intake in intakes
            for sample in intake.samples
            if sample.refusal
        ]
        self._report.bridged.rejected += len(letters)
        return letters

    def _letter(
        self, topic: str, value: bytes, key: bytes | None, rejected: RejectedRecord
    ) -> tuple[Record, DeadLetter]:
        """Of what has no place in Kafka."""
        record = Record(topic, 0, -1, -1, key, value)
        return record, DeadLetter(self._device.name, 0, -1, rejected.reason, rejected.detail)

    def _receipts(self, intakes: Sequence[Intake]) -> list[str]:
        """A line for each sample that the device is to hear of; an id that cannot be in a line gets none."""
        words: list[tuple[str, str]] = []
        for intake in intakes:
            if intake.wants_receipts:
                words += [(each, self._known_ids.refusal(each)) for each in intake.known_ids]
                words += [(sample.id, sample.refusal) for sample in intake.samples]
                if intake.rejected is not None:
                    words.append((intake.rejected_id, intake.rejected.reason))
        return [f"{sample_id} {word}".removesuffix(" ") for sample_id, word in words if _is_line(sample_id)]

    def _acknowledge(self, packets: Sequence[Packet]) -> None:
        """In the order received; what cannot be sent any more is recognised when it comes again."""
        for _connection, group in groupby(packets, lambda packet: packet.connection):
            of_one = list(group)
            is_sent = self._session.acknowledge(of_one)
            for packet in of_one:
                if packet.packet_id:
                    self._resent.written(packet.session, packet.packet_id, is_acknowledged=is_sent)

    @contextmanager
    def _patient(self) -> Iterator[None]:
        """Inside, Kafka is waited for; after a while without the device's connection, which is taken up again then."""
        timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._pause)
        try:
            yield
        finally:
            timer.cancel()
        self._session.resume()

    def _pause(self) -> None:
        self._report.paused(self._device.name)
        self._session.pause()


def _is_line(sample_id: str) -> bool:
    return sample_id.splitlines() == [sample_id] and len(sample_id.encode(errors="replace")) <= MAX_VALUE_BYTES
