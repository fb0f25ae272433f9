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

from edged.domain.mqtt import identity, topics
from edged.domain.mqtt.properties import DOUBLE_HEADER, header_of
from edged.domain.mqtt.resent import Origin, Resent
from edged.domain.samples.returned import ID_HEADER, MAX_VALUE_BYTES
from edged.domain.topology import Device, Topology
from edged.errors import RecordTooLarge, RejectedRecord
from edged.log import logger
from edged.ports import Log, Message, MqttSession, Packet, Progress, Record, TopicPartition
from edged.reading import newest
from edged.services.ingest.dead_letters import DeadLetter, DeadLetters
from edged.services.mqtt.bridge_report import BridgeReport
from edged.services.mqtt.receipts import Receipts
from edged.services.mqtt.records import TOO_LARGE, Intake, Reader

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
        self._ledger = identity.ledger(device.id)
        self._resent = Resent()
        self._num_steps = 0
        self._is_busy = False

    def progress(self) -> Progress:
        """Steps are packets taken. Idle while it waits for packets or for Kafka."""
        return Progress(self._num_steps, not self._is_busy)

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
        """Fill the ledger with the ids in the topic's tail; whether there are records."""
        partition = TopicPartition(self._topic)
        low, _stable, high = (await self._log.watermarks([partition]))[partition]
        if count := identity.num_filling(self._device.id):
            for sample_id in await newest(self._log, partition, _id_header, count=count):
                try:
                    self._ledger.see(sample_id)
                except RejectedRecord:
                    continue  # written by another program, or while the device declared other ids
        return high > low

    async def _take(self, packets: Sequence[Packet]) -> None:
        intakes = self._sorted(packets)
        messages = [message for intake in intakes for _id, message in intake.samples]
        with self._patient():
            too_large = await self._append(messages)
            await self._dead_letters.send(self._letters(intakes, too_large))
        self._acknowledge(packets)
        self.receipts.add(_receipts(intakes, too_large))

    def _sorted(self, packets: Sequence[Packet]) -> list[Intake]:
        """What the packets become, but those that are in Kafka already, and those that say nothing new."""
        self._is_busy = True
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
                intake = self._marked(intake)
            intakes.append(intake)
        self._is_busy = False
        return intakes

    def _may_be_of_earlier_process(self, packet: Packet) -> bool:
        return packet.session > 1 or self._session.was_resumed is True

    def _without_known(self, intake: Intake) -> Intake:
        """Without the samples whose ids were seen. Of a packet with an id that is none, nothing is taken."""
        fresh: list[tuple[str, Message]] = []
        sample_id = ""
        try:
            for sample_id, message in intake.samples:
                if not sample_id:
                    fresh.append((sample_id, message))
                    continue
                seen = self._ledger.see(sample_id)
                self._report.seen(self._device.name, sample_id, seen)
                if seen.is_duplicate:
                    intake.known_ids.append(sample_id)
                else:
                    fresh.append((sample_id, message))
        except RejectedRecord as error:
            return Intake(intake.packet, (), intake.wants_receipts, error, sample_id)
        intake.samples = fresh
        return intake

    def _marked(self, intake: Intake) -> Intake:
        """With a header at each sample that may be there already. Ids would have told."""
        has_ids = self._device.id != "none"
        marked = [
            (sample_id, message if sample_id and has_ids else _marked(message)) for sample_id, message in intake.samples
        ]
        if count := sum(DOUBLE_HEADER in dict(message.headers) for _id, message in marked):
            self._report.doubles(self._device.name, count)
        intake.samples = marked
        return intake

    async def _append(self, messages: Sequence[Message]) -> set[int]:
        """Write them; the positions of those that the topic does not take."""
        too_large = set()
        pending = list(range(len(messages)))
        while pending:
            try:
                await self._log.append([messages[i] for i in pending], refuse_too_large=True)
            except RecordTooLarge as error:
                del pending[: len(error.written)]
                refused = next(i for i in pending if len(messages[i].value) == error.size_bytes)
                pending.remove(refused)
                too_large.add(refused)
            else:
                break
        written = [message for i, message in enumerate(messages) if i not in too_large]
        self._report.written(len(written), sum(len(message.value) for message in written))
        return too_large

    def _letters(self, intakes: Sequence[Intake], too_large: set[int]) -> list[tuple[Record, DeadLetter]]:
        letters = [
            self._letter(intake.packet.topic, intake.packet.payload, None, intake.rejected)
            for intake in intakes
            if intake.rejected is not None
        ]
        messages = [message for intake in intakes for _id, message in intake.samples]
        refused = RejectedRecord(TOO_LARGE, f"the topic {self._topic} does not take it")
        letters += [self._letter(self._topic, messages[i].value, messages[i].key, refused) for i in sorted(too_large)]
        self._report.bridged.rejected += len(letters)
        return letters

    def _letter(
        self, topic: str, value: bytes, key: bytes | None, rejected: RejectedRecord
    ) -> tuple[Record, DeadLetter]:
        """Of what has no place in Kafka."""
        record = Record(topic, 0, -1, -1, key, value)
        return record, DeadLetter(self._device.name, 0, -1, rejected.reason, rejected.detail)

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


def _receipts(intakes: Sequence[Intake], too_large: set[int]) -> list[str]:
    """A line for each sample that the device is to hear of; an id that is none, or too long to be one, gets no word."""
    lines = []
    position = 0
    for intake in intakes:
        own = [(sample_id, "") for sample_id in intake.known_ids]
        for sample_id, _message in intake.samples:
            own.append((sample_id, TOO_LARGE if position in too_large else ""))
            position += 1
        if intake.rejected is not None:
            own.append((intake.rejected_id, intake.rejected.reason))
        if intake.wants_receipts:
            lines += [f"{sample_id} {word}".removesuffix(" ") for sample_id, word in own if _is_line(sample_id)]
    return lines


def _is_line(sample_id: str) -> bool:
    return sample_id.splitlines() == [sample_id] and len(sample_id.encode(errors="replace")) <= MAX_VALUE_BYTES


def _marked(message: Message) -> Message:
    return replace(message, headers=(*message.headers, (DOUBLE_HEADER, b"1")))


def _id_header(record: Record) -> str | None:
    value = header_of(record.headers, ID_HEADER)
    return None if value is None else value.decode(errors="replace")
