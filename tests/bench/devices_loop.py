"""Takes packets of one device from an MQTT broker into Kafka, by edged's bridge or by as little as does the same.

Run by `devices`: python -m tests.bench.devices_loop bridge|bare|subscribe MQTT KAFKA DEVICE COUNT. Both acknowledge a
packet once Kafka holds its record. The last line is JSON: seconds of wall and CPU time from the first packet taken to
the last.
"""

# ruff: noqa: T201 - a script prints

import asyncio
import contextlib
import json
import sys
import time
from typing import Any

from aiokafka import AIOKafkaProducer
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.mqtt import PahoBroker
from edged.domain.mqtt import topics
from edged.domain.topology import Device, Edge, Kafka, Mqtt, Stream, Topology
from edged.ports import Packet
from edged.services.ingest.dead_letters import DeadLetters
from edged.services.mqtt.bridge import DeviceBridge
from edged.services.mqtt.bridge_report import BridgeReport

SITE, EDGE, WINDOW = "devices", "pi-a", 32


class Stopwatch:
    """From the first of `count` to the last."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._begin: tuple[float, float] | None = None
        self.is_over = asyncio.Event()
        self.spent: dict[str, float] = {}

    def begun(self) -> None:
        """One was taken."""
        self._begin = self._begin or (time.perf_counter(), time.process_time())

    def done(self, count: int) -> None:
        """So many were acknowledged."""
        self._left -= count
        if self._left <= 0 and self._begin is not None:
            wall_s, cpu_s = self._begin
            self.spent = {"wall_s": time.perf_counter() - wall_s, "cpu_s": time.process_time() - cpu_s}
            self.is_over.set()


class Timed:
    """A session that the stopwatch sees."""

    def __init__(self, session: Any, watch: Stopwatch) -> None:
        self._session = session
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def receive(self, **options: Any) -> list[Packet]:
        packets: list[Packet] = await self._session.receive(**options)
        if packets:
            self._watch.begun()
        return packets

    def acknowledge(self, packets: list[Packet]) -> bool:
        is_sent: bool = self._session.acknowledge(packets)
        self._watch.done(len(packets))
        return is_sent


async def bridge(mqtt: Mqtt, kafka: Kafka, device: str, watch: Stopwatch) -> None:
    """As an edge does it for one device."""
    topology = Topology(
        SITE, kafka, (Stream("bytes", (784,), "uint8", ("x",)),), (Device(device, EDGE, "bytes", transport="mqtt"),),
        (Edge(EDGE),), (), mqtt=mqtt,
    )  # fmt: skip
    client = topics.bridge_client_id(SITE, device)
    async with (
        KafkaLog(kafka, RecordingHealth()) as log,
        PahoBroker(mqtt, RecordingHealth()) as broker,
        broker.session(client, topics.of_device(SITE, device), part=device) as session,
    ):
        letters = DeadLetters(log, topology.dead_letters_topic(EDGE))
        timed: Any = Timed(session, watch)
        bridging = DeviceBridge(log, topology, topology.iot[0], timed, dead_letters=letters, report=BridgeReport())
        await _until_over(bridging.run(), watch)


async def bare(mqtt: Mqtt, kafka: Kafka, device: str, watch: Stopwatch) -> None:
    """By paho's own thread and a producer."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Queue[MQTTMessage]()
    name = topics.bridge_client_id(SITE, device)
    client = Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTv5, manual_ack=True)

    def on_message(_client: Client, _data: Any, message: MQTTMessage) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, message)

    client.on_message = on_message
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval, properties.ReceiveMaximum = 3600, WINDOW
    client.connect(mqtt.host, mqtt.port, clean_start=False, properties=properties)
    client.loop_start()
    async with AIOKafkaProducer(bootstrap_servers=list(kafka.bootstrap), acks="all") as producer:
        await _until_over(_carry(arrived, producer, client, device, watch), watch)
    client.loop_stop()
    client.disconnect()


async def _carry(
    arrived: "asyncio.Queue[MQTTMessage]", producer: Any, client: Client, device: str, watch: Stopwatch
) -> None:
    topic = f"{SITE}.iot.{device}"
    while True:
        messages = [await arrived.get()]
        watch.begun()
        while not arrived.empty():
            messages.append(arrived.get_nowait())
        for each in [await producer.send(topic, bytes(message.payload)) for message in messages]:
            await each
        for message in messages:
            client.ack(message.mid, message.qos)
        watch.done(len(messages))


async def _until_over(work: Any, watch: Stopwatch) -> None:
    working = asyncio.get_running_loop().create_task(work)
    await watch.is_over.wait()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


async def main(which: str, mqtt: str, kafka: str, device: str, count: str) -> None:
    if which == "subscribe":
        await _subscribe(Mqtt(mqtt), device)
        return
    watch = Stopwatch(int(count))
    await {"bridge": bridge, "bare": bare}[which](Mqtt(mqtt), Kafka((kafka,)), device, watch)
    print(json.dumps(watch.spent))


async def _subscribe(mqtt: Mqtt, device: str) -> None:
    """So that the broker keeps what comes."""
    client = topics.bridge_client_id(SITE, device)
    filters = [f"{topics.samples_topic(SITE, device)}/#"]
    async with PahoBroker(mqtt, RecordingHealth()) as broker, broker.session(client, filters, part=device) as session:
        await session.connected()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
