"""Reads a device's packet: the records of its topic, in the form of any other device's, or what is wrong with it.

Writes nothing. See also: `bridge`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from edged.domain.mqtt import properties, topics
from edged.domain.mqtt.properties import WRONG_PROPERTY
from edged.domain.samples import pack as packs
from edged.domain.samples.pack import Pack
from edged.domain.samples.returned import ID_HEADER
from edged.domain.samples.rules import MAX_KEY_BYTES, TOO_LARGE
from edged.domain.samples.sample import Sample
from edged.domain.samples.times import sampled_header
from edged.domain.text import shown
from edged.domain.topology import Device
from edged.errors import FormatError, RejectedRecord
from edged.ports import Message, Packet

WRONG_PACK = "wrong_pack"


@dataclass(slots=True)
class Incoming:
    """A sample of a packet. `id`: empty without one. `refusal`: why its topic does not take it; empty when it does."""

    id: str
    message: Message
    refusal: str = ""


@dataclass(slots=True)
class Intake:
    """What a packet becomes: `samples`, or what is wrong with it: `rejected`."""

    packet: Packet
    samples: Sequence[Incoming] = ()
    wants_receipts: bool = False
    rejected: RejectedRecord | None = None
    rejected_ids: Sequence[str] = ()
    is_pack: bool = False
    known_ids: list[str] = field(default_factory=list)
    """Of samples that came before: left out of `samples`, and their receipts are due again."""


class PacketReader:
    """Reads packets of one device; `topic`: its topic in Kafka."""

    def __init__(self, site: str, device: Device, topic: str) -> None:
        self._site = site
        self._device = device
        self._topic = topic
        self._packs_topic = topics.packs_topic(site, device.name)

    def read(self, packet: Packet) -> Intake:
        """What the packet becomes."""
        wants = self._device.receipts or properties.wants_receipt(packet.properties.user)
        try:
            samples = self._samples(packet)
        except RejectedRecord as error:
            return Intake(packet, wants_receipts=wants, rejected=error, rejected_ids=self._ids_of(packet))
        return Intake(packet, samples, wants, is_pack=packet.topic == self._packs_topic)

    def _samples(self, packet: Packet) -> Sequence[Incoming]:
        if packet.problem:
            reason = TOO_LARGE if packet.num_bytes > len(packet.payload) else WRONG_PROPERTY
            raise RejectedRecord(reason, packet.problem)
        topic = topics.parse(self._site, packet.topic)
        if topic.device != self._device.name:
            raise RejectedRecord(topics.WRONG_TOPIC, "it is another device's")
        if isinstance(topic, topics.PackTopic):
            return self._of_pack(packet)
        given = packet.properties
        said = properties.described(topic, given.user, given.response_topic, given.correlation)
        return [Incoming(said.sample_id, Message(self._topic, packet.payload, said.key, said.headers))]

    def _of_pack(self, packet: Packet) -> Sequence[Incoming]:
        if any(name in {properties.LABEL, properties.ID} for name, _value in packet.properties.user):
            raise RejectedRecord(WRONG_PROPERTY, "of a pack, labels and ids stand beside each sample in it")
        try:
            pack = packs.decode(packet.payload)
        except FormatError as error:
            raise RejectedRecord(WRONG_PACK, str(error)) from error
        self._check(pack)
        return [self._of_sample(sample) for sample in pack.samples]

    def _check(self, pack: Pack) -> None:
        own = self._device
        if pack.stream != own.stream:
            raise RejectedRecord(WRONG_PACK, f'it is of the stream "{shown(pack.stream):.80}", not of {own.stream}')
        for sample in pack.samples:
            if sample.device != own.name:
                raise RejectedRecord(WRONG_PACK, f'it has samples of "{shown(sample.device):.80}"')
            if len((sample.label or "").encode()) > MAX_KEY_BYTES:
                raise RejectedRecord(WRONG_PACK, f"a label in it has more than {MAX_KEY_BYTES} bytes")

    def _of_sample(self, sample: Sample) -> Incoming:
        headers = () if sample.sampled_ms is None else (sampled_header(sample.sampled_ms),)
        if sample_id := self._id_in_pack(sample):
            headers = (*headers, (ID_HEADER, sample_id.encode()))
        key = None if sample.label is None else sample.label.encode()
        return Incoming(sample_id, Message(self._topic, sample.payload, key, headers))

    def _id_in_pack(self, sample: Sample) -> str:
        """The offset in the pack is the id of a device that declares ids, with the incarnation as its series."""
        if self._device.id == "none":
            return ""
        return f"{sample.incarnation}:{sample.offset}" if sample.incarnation else str(sample.offset)

    def _ids_of(self, packet: Packet) -> Sequence[str]:
        """The ids of a packet that is rejected, as far as it can be read: its device may wait for receipts."""
        if packet.topic != self._packs_topic:
            of_property = (value for name, value in packet.properties.user if name == properties.ID)
            return (next(of_property, topics.id_level(packet.topic)),)
        try:
            samples = packs.decode(packet.payload).samples
        except FormatError:
            return ()
        return [self._id_in_pack(sample) for sample in samples if sample.device == self._device.name]
