"""Brings one device's packets into its Kafka topic; each is acknowledged to the MQTT broker once Kafka holds it.

Covers the order of durable steps, doubles, and what happens while Kafka is away. See also: `records` (what a packet
becomes), `known_ids` (samples that came before), `services.ingest` (what becomes of the records).

Steps, for packets that were received together:
1. append the records to the device's topic, and what cannot be a record to the dead-letter topic
2. acknowledge the packets to the broker, in the order received
3. send the device its receipts (see `receipts`)
After a crash before 2 the broker sends the packets again: a sample with an id is recognised, by the ids in the topic's
tail; one without is written twice, and marked (`edged-double`). After a crash before 3 a device that waits for receipts
sends its samples again.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby

from edged.appending import append_what_fits
from edged.domain.mqtt import topics
from edged.domain.mqtt.properties import DOUBLE_HEADER
from edged.domain.mqtt.receipts import line
from edged.domain.mqtt.resent import Origin, Resent
from edged.domain.samples.returned import is_id
from edged.domain.samples.rules import TOO_LARGE
from edged.domain.topology import Device, Topology
from edged.errors import RejectedRecord
from edged.log import logger
from edged.ports import Log, MqttSession, Packet, Progress, Record, TopicPartition
from edged.services.ingest.dead_letters import DeadLetter, DeadLetters
from edged.services.mqtt.bridge_report import BridgeReport
from edged.services.mqtt.known_ids import KnownIds
from edged.services.mqtt.receipts import Receipts
from edged.services.mqtt.records import Incoming, Intake, PacketReader

PATIENCE_S = 20.0
"""How long a device's connection stays open while Kafka takes nothing. A broker keeps the packets without a connection,
too; with one it may end it when nothing is acknowledged, and sends nothing again before the next."""

_POLL_S = 1.0


class DeviceBridge:
    """Of one device. `session`: the device's, entered by the caller."""

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
        """Sent by a task of its own."""
        self._client_id = topics.bridge_client_id(topology.site, device.name)
        self._reader = PacketReader(topology.site, device, self._topic)
        self._known_ids = KnownIds(device, report)
        self._resent = Resent()
        self._end = 0
        """Of the device's topic, as this bridge knows it."""
        self._connection = 0
        self._is_shared = False
        self._num_steps = 0
        self._is_taking = False
        self._ended: asyncio.Task[None] | None = None

    def progress(self) -> Progress:
        """Steps are packets taken. Always idle: it waits for packets or for Kafka."""
        return Progress(self._num_steps, idle=True)

    async def run(self) -> None:
        """Take packets until cancelled. Waits while Kafka is away. Cancelled: the broker sends them again."""
        with self._patient():
            await self._fill()
        expects_session = self._end > 0
        while True:
            packets = await self._session.receive(max_packets=self._window, timeout_s=_POLL_S)
            if expects_session and self._session.was_resumed is not None:
                expects_session = False
                if not self._session.was_resumed:
                    logger().warning("mqtt.session_lost", client=self._client_id)
            if packets:
                self._is_taking = True
                await self._look_for_others(packets[-1].connection)
                await self._take(packets)
                self._is_taking = False
                self._num_steps += len(packets)
                if self._ended is not None:
                    self._ended.cancel()

    def end(self, task: "asyncio.Task[None]") -> None:
        """Cancel the task that runs this, but not between Kafka's acknowledgement of some packets and theirs."""
        self._ended = task
        if not self._is_taking:
            task.cancel()

    async def _fill(self) -> None:
        """Learn the topic's end, and the ids in its tail."""
        partition = TopicPartition(self._topic)
        self._end = (await self._log.watermarks([partition]))[partition].high
        await self._known_ids.fill(self._log, partition)

    async def _look_for_others(self, connection: int) -> None:
        """At a new connection: another edge that had the session meanwhile has written what may come again.

        It is a cloned card's, or the former one of a device that has moved; what it is writing now is not seen.
        """
        if connection == self._connection:
            return
        self._connection = connection
        partition = TopicPartition(self._topic)
        with self._patient():
            if (await self._log.watermarks([partition]))[partition].high != self._end:
                self._is_shared = True
                self._resent.had_company()
                await self._fill()

    async def _take(self, packets: Sequence[Packet]) -> None:
        intakes = self._sorted(packets)
        with self._patient():
            await self._append([sample for intake in intakes for sample in intake.samples])
            await self._dead_letters.send(self._letters(intakes))
        self._acknowledge(packets)
        self.receipts.add(self._receipts(intakes))

    def _sorted(self, packets: Sequence[Packet]) -> list[Intake]:
        """What the packets become; without those that Kafka holds already, and retained ones."""
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
        return self._is_shared or packet.session > 1 or self._session.was_resumed is True

    def _without_known(self, intake: Intake) -> Intake:
        """Without samples whose ids are known; rejected as a whole if an id is not of the declared kind."""
        for sample in intake.samples:
            try:
                self._known_ids.check(sample.id)
            except RejectedRecord as error:
                ids = [each.id for each in intake.samples]
                return Intake(intake.packet, (), intake.wants_receipts, error, ids)
        has_to_have_ids = self._device.id != "none" or intake.wants_receipts
        if has_to_have_ids and (nameless := sum(not sample.id for sample in intake.samples)):
            self._report.without_id(self._device.name, nameless)
        fresh = []
        for sample in intake.samples:
            if self._known_ids.is_known(sample.id):
                intake.known_ids.append(sample.id)
            else:
                fresh.append(sample)
        intake.samples = fresh
        return intake

    def _mark(self, intake: Intake) -> None:
        """Mark each sample that Kafka may hold already; one with an id would have been recognised."""
        has_ids = self._device.id != "none"
        doubtful = [sample for sample in intake.samples if not (sample.id and has_ids)]
        for sample in doubtful:
            sample.message = replace(sample.message, headers=(*sample.message.headers, (DOUBLE_HEADER, b"1")))
        if doubtful:
            self._report.doubles(self._device.name, len(doubtful))

    async def _append(self, samples: Sequence[Incoming]) -> None:
        """Append the samples to the topic; those that it does not take have a `refusal` afterwards."""
        appended = await append_what_fits(self._log, [sample.message for sample in samples])
        self._end = max([self._end, *(offset + 1 for offset in appended.offsets)])
        for index in appended.refused:
            samples[index].refusal = TOO_LARGE
            self._known_ids.refuse(samples[index].id, TOO_LARGE)
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
        """A dead letter for what was never a record in Kafka."""
        record = Record(topic, 0, -1, -1, key, value)
        return record, DeadLetter(self._device.name, 0, -1, rejected.reason, rejected.detail)

    def _receipts(self, intakes: Sequence[Intake]) -> list[str]:
        """A line for each sample whose device wants a receipt, and which has an id."""
        receipts: list[tuple[str, str]] = []
        for intake in intakes:
            if intake.wants_receipts:
                receipts += [(each, self._known_ids.refusal(each)) for each in intake.known_ids]
                receipts += [(sample.id, sample.refusal) for sample in intake.samples]
                if intake.rejected is not None:
                    receipts += [(each, intake.rejected.reason) for each in intake.rejected_ids]
        return [line(sample_id, refusal) for sample_id, refusal in receipts if is_id(sample_id)]

    def _acknowledge(self, packets: Sequence[Packet]) -> None:
        """Acknowledge in the order received; a packet whose connection is gone is recognised when it comes again."""
        for _connection, group in groupby(packets, lambda packet: packet.connection):
            of_one = list(group)
            is_sent = self._session.acknowledge(of_one)
            for packet in of_one:
                if packet.packet_id:
                    self._resent.written(packet.session, packet.packet_id, is_acknowledged=is_sent)

    @contextmanager
    def _patient(self) -> Iterator[None]:
        """Closes the device's connection where the body waits for Kafka for PATIENCE_S, and reopens it afterwards."""
        timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._pause)
        try:
            yield
        finally:
            timer.cancel()
        self._session.resume()

    def _pause(self) -> None:
        self._report.paused(self._device.name)
        self._session.pause()
