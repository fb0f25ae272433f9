"""A site of twenty devices on MQTT and five on Kafka, of all kinds of clients, which number what they publish.

The devices are the test's own tasks, so that it knows what was acknowledged and when. See also: `site`.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from confluent_kafka import Producer

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.mqtt import PahoBroker
from edged.cli.demo.observer import archived_samples
from edged.device import Buffer, Device
from edged.domain.mqtt import topics
from edged.domain.samples import returned
from edged.domain.topology import Mqtt, Topology
from edged.errors import MqttUnavailable
from edged.ports import MqttBroker, MqttSession, PacketProperties, Record, TopicPartition
from edged.reading import read_to_end
from tests.support.archive_samples import open_archive
from tests.support.site import Site
from tests.support.soak.devices import LIBRDKAFKA

WINDOW = 8
_SAMPLE_BYTES = 784
_RESEND_S = 5.0


@dataclass(frozen=True, slots=True)
class Kind:
    """Of a device: its `keys` in the topology beside its name, by which client it publishes, how many a second.

    `is_constant`: all its samples are the same bytes, so that no content tells a double from the next sample.
    """

    keys: str
    client: str
    per_s: float
    is_constant: bool = False


_MQTT, _COUNTER = "transport: mqtt", "transport: mqtt, id: counter"
_RECEIPTS = f"{_COUNTER}, receipts: true"
FLEET = {
    f"{_name_of}-{_number:02}": _kind
    for _name_of, _kinds in {
        "plain": [
            *(Kind(_MQTT, "property", per_s, is_constant=per_s > 3) for per_s in (1, 2, 4, 8, 8, 30)),
            *(Kind(_MQTT, "level", per_s, is_constant=True) for per_s in (2, 6)),
        ],
        "counted": [Kind(_COUNTER, "property", per_s, is_constant=per_s > 3) for per_s in (1, 3, 6, 12)],
        "levels": [Kind(_COUNTER, "level", 5)],
        "named": [Kind(f"{_MQTT}, id: text", "property", per_s, is_constant=True) for per_s in (2, 5)],
        "receipt": [Kind(_RECEIPTS, "receipts", 4, is_constant=True)],
        "device": [Kind(_RECEIPTS, "edged", per_s, is_constant=per_s > 3) for per_s in (1, 3, 5, 10)],
        "kafka": [
            *(Kind("", "edged", per_s, is_constant=per_s > 3) for per_s in (1, 8)),
            Kind("", "edged, no buffer", 3),
            *(Kind("", "librdkafka", per_s, is_constant=per_s > 3) for per_s in (2, 10)),
        ],
    }.items()
    for _number, _kind in enumerate(_kinds)
}
"""Each device's kind, by its name."""

MQTT_DEVICES = [name for name, kind in FLEET.items() if kind.keys]
KEPT = [name for name, kind in FLEET.items() if kind.client in {"receipts", "edged"} or not kind.keys]
"""Those that keep what has no receipt, or have Kafka's own word: whatever is killed, nothing of theirs may be lost."""

ONCE = [name for name, kind in FLEET.items() if kind.keys != _MQTT]
"""Those of whose samples none may be there twice."""


class FleetSite(Site):
    """`mqtt`: the broker's address as the edge sees it."""

    def configure(self, **settings: Any) -> None:
        super().configure(**settings)
        lines = [
            f"  - {{name: {name}, edge: pi-a, stream: fashion, codec: raw{', ' * bool(kind.keys)}{kind.keys}}}\n"
            for name, kind in FLEET.items()
        ]
        text = re.sub(r"(?m)^  - \{name: cam-.*\n", "", self.topology.read_text())
        text = text.replace("iot:\n", f"iot:\n{''.join(lines)}").replace(
            '"}\nstreams', f'", window: {WINDOW}}}\nstreams'
        )
        self.topology.write_text(text)

    async def records(self) -> dict[str, list[Record]]:
        """All that is in each device's topic."""
        topology = self.loaded()
        found = {}
        async with KafkaLog(topology.kafka, RecordingHealth()) as log:
            for name in FLEET:
                partition = TopicPartition(topology.device_topic(name))
                async with log.reader({partition: 0}) as reader:
                    found[name] = [
                        record
                        async for records in read_to_end(log, reader, partition, max_records=1000)
                        for record in records
                    ]
        return found

    def num_archived(self) -> int:
        """Samples of the edge in the archive, as its files' names say."""
        sources = open_archive(self.archive_folder).summaries("fashion")
        return sum(each.samples for each in sources if each.source == "pi-a")

    def archived_places(self) -> Counter[tuple[str, int]]:
        """Of each sample in the archive, its device and its offset."""
        return Counter((each.device, each.offset) for each in archived_samples(self.loaded()))


class _Client(Protocol):
    async def publish(self, number: int, payload: bytes) -> str:
        """The sample's id, once it is acknowledged. Raises MqttUnavailable: it may have been taken."""


@dataclass
class FleetDevice:
    """One of them. `acknowledged`: its samples' ids, each with when that came, in Unix time."""

    name: str
    kind: Kind
    client: _Client
    acknowledged: dict[str, float] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    is_wanted: bool = True

    async def run(self) -> None:
        """Publish until it is not wanted any more."""
        number = 1
        while self.is_wanted:
            payload = (0 if self.kind.is_constant else number).to_bytes(_SAMPLE_BYTES)
            self.attempts[str(number)] += 1
            try:
                sample_id = await self.client.publish(number, payload)
            except MqttUnavailable:
                continue
            self.acknowledged[sample_id] = time.time()
            number += 1
            await asyncio.sleep(1 / self.kind.per_s)


@dataclass
class _ByMqtt:
    """Any client of MQTT, with the id in a user property or, for those that have none, in the topic."""

    session: MqttSession
    site: str
    device: str
    by_level: bool

    async def publish(self, number: int, payload: bytes) -> str:
        sample_id = str(number)
        level, said = (sample_id, ()) if self.by_level else ("", (("id", sample_id),))
        topic = topics.samples_topic(self.site, self.device, "", level)
        await self.session.connected()
        verdict = await self.session.publish(topic, payload, PacketProperties(said))
        if verdict == "nobody":
            await asyncio.sleep(_RESEND_S)
            raise MqttUnavailable("nobody takes it")
        return sample_id


@dataclass
class _ByReceipts:
    """A client that sends each sample until it has edged's receipt."""

    inner: _ByMqtt

    async def publish(self, number: int, payload: bytes) -> str:
        sample_id = await self.inner.publish(number, payload)
        until_s = time.monotonic() + _RESEND_S
        while (left_s := until_s - time.monotonic()) > 0:
            packets = await self.inner.session.receive(max_packets=100, timeout_s=left_s)
            self.inner.session.acknowledge(packets)
            if sample_id in {line for each in packets for line in each.payload.decode().splitlines()}:
                return sample_id
        raise MqttUnavailable("no receipt")


@dataclass
class _ByLibrary:
    device: Device

    async def publish(self, number: int, payload: bytes) -> str:
        return await self.device.publish(payload)


@dataclass
class _ByLibrdkafka:
    producer: Producer
    topic: str

    async def publish(self, number: int, payload: bytes) -> str:
        sample_id = str(number)
        errors: list[object] = []
        headers: list[tuple[str, str | bytes | None]] = [(returned.ID_HEADER, sample_id)]
        told: Callable[[object, object], None] = lambda error, _message: errors.append(error)  # noqa: E731
        self.producer.produce(self.topic, payload, headers=headers, on_delivery=told)
        while not errors:
            await asyncio.to_thread(self.producer.flush, 1.0)
        assert errors == [None]
        return sample_id


@asynccontextmanager
async def fleet(site: FleetSite, folder: Path, mqtt: Mqtt, old: Mqtt) -> AsyncIterator[dict[str, FleetDevice]]:
    """Inside, all publish, to MQTT directly; `old`: the way to the same broker by MQTT 3.1.1 alone.

    Left, all have been stopped, and what is in the buffers has arrived.
    """
    topology = site.loaded()
    async with AsyncExitStack() as stack:
        new_broker, old_broker = [
            await stack.enter_async_context(PahoBroker(each, RecordingHealth())) for each in (mqtt, old)
        ]
        opening = _Opening(topology, folder, new_broker, old_broker, stack)
        devices = {name: FleetDevice(name, kind, await opening.client(name, kind)) for name, kind in FLEET.items()}
        async with asyncio.TaskGroup() as group:
            for each in devices.values():
                group.create_task(each.run(), name=each.name)
            yield devices
            for each in devices.values():
                each.is_wanted = False
        for each in devices.values():
            if isinstance(each.client, _ByLibrary):
                await each.client.device.flush()


@dataclass
class _Opening:
    topology: Topology
    folder: Path
    new_broker: MqttBroker
    old_broker: MqttBroker
    stack: AsyncExitStack

    async def client(self, name: str, kind: Kind) -> _Client:
        site = self.topology.site
        if kind.client == "librdkafka":
            bootstrap = ",".join(self.topology.kafka.bootstrap)
            return _ByLibrdkafka(
                Producer({"bootstrap.servers": bootstrap, **LIBRDKAFKA}), self.topology.device_topic(name)
            )
        if kind.client.startswith("edged"):
            buffer = None if "no buffer" in kind.client else Buffer(self.folder / name)
            broker = self.new_broker if kind.keys else None
            device = Device(self.topology, name, buffer=buffer, broker=broker, receive=False)
            return _ByLibrary(await self.stack.enter_async_context(device))
        by_level = kind.client == "level"
        broker = self.old_broker if by_level else self.new_broker
        filters = [topics.receipts_topic(site, name)] if kind.client == "receipts" else []
        client_id = topics.device_client_id(site, name)
        session = await self.stack.enter_async_context(broker.session(client_id, filters, part=name))
        plain = _ByMqtt(session, site, name, by_level)
        return _ByReceipts(plain) if filters else plain


def ids_of(records: Sequence[Record]) -> Counter[str]:
    """How often each sample is there."""
    return Counter(returned.sample_id(record.headers) for record in records)


def again(records: Sequence[Record]) -> Iterator[Record]:
    """Those whose sample is there before them."""
    seen: set[str] = set()
    for record in records:
        sample_id = returned.sample_id(record.headers)
        if sample_id in seen:
            yield record
        seen.add(sample_id)
