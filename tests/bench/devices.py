"""What devices that speak MQTT cost an edge, and how long a prediction takes from sensor to sensor.

    python -m tests.bench.devices [--quick] [--json] [--rounds 3] [--seconds 20] [--rate 200]

Real Mosquitto, with the settings that `edged topics` prints, and real Kafka. Three parts:
1. packets of 784 bytes and of 20 kB that wait at the broker, through the bridge and, by turns with it, through a bare
   loop of paho and aiokafka that acknowledges as late: messages a second, and CPU a message
2. beside an edge that trains all the time: from the sample's publication until its prediction is back at its device,
   of two devices by MQTT and, by turns with them, of two by Kafka; and of the same two by MQTT, with nothing of
   edged's in between: plain paho sends back what they publish
3. resident memory of an edge with 200 devices that speak MQTT and are connected, and of one with none
"""

# ruff: noqa: T201 - a script prints

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.mqtt import PahoBroker
from edged.cli.demo.processes import Child
from edged.domain.mqtt import mosquitto, topics
from edged.domain.samples import prediction
from edged.domain.samples.returned import ID_HEADER
from edged.domain.topology import Kafka, Mqtt
from edged.ports import Log, Message, MqttBroker, MqttSession, PacketProperties, TopicPartition
from tests.bench import devices_echo
from tests.bench.arguments import bench_parser, several
from tests.bench.devices_loop import SITE
from tests.bench.trainer import machine
from tests.support.brokers import Apache, free_port
from tests.support.mosquitto import Mosquitto
from tests.support.site import DESIGNS_MODEL, FASHION

SIZES = (784, 20_000)
NUM_DEVICES = 200
PARTS = ("bridge", "latency", "memory")
_PACKET_BYTES = 64 << 10
_PATIENCE_S = 5.0
"""How long after a turn its last predictions are waited for."""

_TOPOLOGY = """\
schema: 1
site: {site}
kafka: {{bootstrap: ["{kafka}"]}}
mqtt: {{broker: "{mqtt}", packet_bytes: 64KiB}}
streams:
  fashion: {{sample: {{shape: [28, 28, 1], dtype: uint8}}, labels: {labels}}}
iot:
{devices}
edges:
  - {{name: pi-a, cache: {{memory: 64MiB, disk: 0}}, prefetch: 16MiB, memory_limit: {limit}}}
archive:
  - {{name: vault, url: "{archive}"}}
training:
  stream: fashion
  model: {model}
  source: archive
  epochs: 1000000
  global_batch: 64
  optimizer: {{sgd: {{learning_rate: 0.02, momentum: 0.9}}}}
  test_samples: 500
  checkpoint: 1min
"""
_SAID = {"mqtt": "MQTT", "kafka": "Kafka", "echo": "Mosquitto and plain paho alone"}
_BY_MQTT, _BY_KAFKA = ("cam-01", "cam-02"), ("cam-03", "cam-04")

Figures = dict[str, Any]


def _topology(folder: Path, kafka: str, mqtt: str, devices: Mapping[str, str], limit: str = "1GiB") -> Path:
    lines = "\n".join(
        f"  - {{name: {name}, edge: pi-a, stream: fashion, codec: raw, transport: {transport}}}"
        for name, transport in devices.items()
    )
    file = folder / "topology.yaml"
    text = _TOPOLOGY.format(
        site=SITE, kafka=kafka, mqtt=mqtt, labels=FASHION, devices=lines, limit=limit,
        archive=(folder / "archive").as_uri(), model=DESIGNS_MODEL,
    )  # fmt: skip
    file.write_text(text)
    return file


# 1. Through the bridge.


async def through(kafka: str, mqtt: str, size: int, rounds: int, num_bytes: int) -> dict[str, Figures]:
    """Both by turns."""
    count, spent = num_bytes // size, dict[str, list[dict[str, float]]](bridge=[], bare=[])
    for which in spent:
        await _loop("subscribe", mqtt, kafka, f"{which}-{size}", 0)
    for _ in range(rounds + 1):
        for which, turns in spent.items():
            await _fill(Mqtt(mqtt), f"{which}-{size}", size, count)
            turns.append(await _loop(which, mqtt, kafka, f"{which}-{size}", count))
    return {which: _speed(turns[1:], count) for which, turns in spent.items()}  # the first warms up


def _speed(turns: Sequence[Mapping[str, float]], count: int) -> Figures:
    return {
        "messages_per_s": round(median(count / each["wall_s"] for each in turns)),
        "cpu_us": round(median(1e6 * each["cpu_s"] / count for each in turns)),
    }


async def _fill(mqtt: Mqtt, device: str, size: int, count: int) -> None:
    async with PahoBroker(mqtt, RecordingHealth()) as broker, broker.session("filler", part="filler") as session:
        await session.connected()
        for _ in range(count):
            await session.publish(topics.samples_topic(SITE, device), bytes(size))


async def _loop(which: str, mqtt: str, kafka: str, device: str, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.devices_loop", which, mqtt, kafka, device, str(count)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{which} ended with {process.returncode}")
    return json.loads(out.splitlines()[-1]) if count else {}


# 2. From sensor to sensor.


class Sensors:
    """What was sent and what came back, by id, in seconds of one clock."""

    def __init__(self) -> None:
        self.sent: dict[str, float] = {}
        self.back: dict[str, float] = {}

    def next_id(self) -> str:
        """Of a sample that is sent now."""
        self.sent[name := str(len(self.sent))] = time.monotonic()
        return name

    def came(self, name: str) -> None:
        """A prediction is there."""
        self.back.setdefault(name, time.monotonic())

    async def by_mqtt(self, session: MqttSession) -> None:
        """Receive until cancelled."""
        while True:
            packets = await session.receive(max_packets=32, timeout_s=60.0)
            for packet in packets:
                self.came(dict(packet.properties.user)["id"])
            session.acknowledge(packets)

    async def by_kafka(self, log: Log) -> None:
        """Receive until cancelled, from the end on."""
        partition = TopicPartition(f"{SITE}.predictions.pi-a")
        end = (await log.watermarks([partition]))[partition].high
        async with log.reader({partition: end}) as reader:
            while True:
                for record in await reader.poll(max_records=100, timeout_s=1.0):
                    if record.key in {name.encode() for name in _BY_KAFKA}:
                        self.came(prediction.decode(record.value).id)

    def latencies_ms(self, names: Sequence[str]) -> list[float]:
        """Of these samples, as far as they came back."""
        return [1e3 * (self.back[name] - self.sent[name]) for name in names if name in self.back]


async def way(kafka: str, mqtt: str, folder: Path, given: argparse.Namespace) -> dict[str, Figures]:
    """Both by turns."""
    devices = dict.fromkeys(_BY_MQTT, "mqtt") | dict.fromkeys(_BY_KAFKA, "kafka")
    sensors, turns = Sensors(), dict[str, list[list[str]]](mqtt=[], kafka=[], echo=[])
    async with (
        _training(_topology(folder, kafka, mqtt, devices), folder, given.images),
        _echo(mqtt),
        KafkaLog(Kafka((kafka,)), RecordingHealth()) as log,
        PahoBroker(Mqtt(mqtt), RecordingHealth()) as broker,
        contextlib.AsyncExitStack() as stack,
    ):
        sessions = [await stack.enter_async_context(_device(broker, name)) for name in _BY_MQTT]
        async with asyncio.TaskGroup() as group:
            receiving = [group.create_task(sensors.by_mqtt(session)) for session in sessions]
            receiving.append(group.create_task(sensors.by_kafka(log)))
            for number in range(given.rounds + 1):
                seconds = given.seconds if number else 3.0
                turns["mqtt"].append(
                    await _publish(sensors, sessions, topics.samples_topic, group, given.rate, seconds)
                )
                turns["kafka"].append(await _append(sensors, log, given.rate, seconds))
                turns["echo"].append(await _publish(sensors, sessions, devices_echo.topic, group, given.rate, seconds))
            for each in receiving:
                each.cancel()
    return {
        which: _figures([sensors.latencies_ms(names) for names in of_which[1:]], of_which[1:])
        for which, of_which in turns.items()
    }


def _figures(latencies: Sequence[Sequence[float]], sent: Sequence[Sequence[str]]) -> Figures:
    by_turn = [np.percentile(each, [50, 99]) for each in latencies]
    return {
        "sent": sum(map(len, sent)),
        "back": sum(map(len, latencies)),
        "p50_ms": round(median(float(each[0]) for each in by_turn), 2),
        "p99_ms": round(median(float(each[1]) for each in by_turn), 2),
        "p99_by_turn": [round(float(each[1]), 2) for each in by_turn],
    }


@contextlib.asynccontextmanager
async def _device(broker: MqttBroker, name: str) -> AsyncIterator[MqttSession]:
    filters = [topics.predictions_topic(SITE, name)]
    async with broker.session(topics.device_client_id(SITE, name), filters, part=name) as session:
        await session.connected()
        yield session


@contextlib.asynccontextmanager
async def _echo(mqtt: str) -> AsyncIterator[None]:
    command = [sys.executable, "-m", "tests.bench.devices_echo", mqtt, SITE]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        yield
    finally:
        process.kill()
        await process.wait()


async def _publish(
    sensors: Sensors,
    sessions: Sequence[MqttSession],
    topic_of: Callable[[str, str], str],
    group: asyncio.TaskGroup,
    rate: float,
    seconds: float,
) -> list[str]:
    names: list[str] = []
    async for number in _ticks(rate, seconds):
        names.append(name := sensors.next_id())
        which = number % len(sessions)
        properties = PacketProperties((("id", name),))
        topic = topic_of(SITE, _BY_MQTT[which])
        group.create_task(sessions[which].publish(topic, bytes(784), properties))
    await asyncio.sleep(_PATIENCE_S)
    return names


async def _append(sensors: Sensors, log: Log, rate: float, seconds: float) -> list[str]:
    names: list[str] = []
    async for number in _ticks(rate, seconds):
        names.append(name := sensors.next_id())
        topic = f"{SITE}.iot.{_BY_KAFKA[number % len(_BY_KAFKA)]}"
        await log.append([Message(topic, bytes(784), headers=((ID_HEADER, name.encode()),))])
    await asyncio.sleep(_PATIENCE_S)
    return names


async def _ticks(rate: float, seconds: float) -> AsyncIterator[int]:
    """Numbers, as many a second, each at its time or as soon as can be after it."""
    loop = asyncio.get_running_loop()
    start, number = loop.time(), 0
    while number < rate * seconds:
        await asyncio.sleep(max(0.0, start + number / rate - loop.time()))
        yield number
        number += 1


@contextlib.asynccontextmanager
async def _training(topology: Path, folder: Path, images: int) -> AsyncIterator[Child]:
    """Archive node, edge and companion, with a model in service; the edge."""
    source = ("--from", "fashion-mnist-small", "--limit", str(images))
    importer = await Child.start("import", "archive", "import", str(topology), *source)
    if await importer.ended() != 0:
        raise RuntimeError(f"the import failed\n{importer.last_words()}")
    async with contextlib.AsyncExitStack() as stack:
        environment = {"XDG_STATE_HOME": str(folder / "state"), "XDG_CACHE_HOME": str(folder / "cache")}

        async def start(command: str, node: str, *within: str) -> Child:
            words = (command, str(topology), "--node", node)
            child = await Child.start(f"{command} {node}", *words, within=within, environment=environment)
            stack.push_async_callback(child.stop)
            return child

        await start("run", "vault")
        edge = await start("run", "pi-a", "nice", "-n", "5")
        await (await start("infer", "pi-a")).wait_for("infer.model_loaded")
        yield edge


# 3. Memory.


async def memory(kafka: str, mqtt: str, folder: Path) -> Figures:
    """Of both, once all devices are connected, in MiB."""
    rss = {}
    for name, count in (("none", 0), ("many", NUM_DEVICES)):
        own = folder / name
        own.mkdir()
        devices = {"cam-00": "kafka"} | {f"cam-{i:03}": "mqtt" for i in range(1, count + 1)}
        topology = _topology(own, kafka, mqtt, devices, "2000MiB")
        environment = {"XDG_STATE_HOME": str(own / "state"), "XDG_CACHE_HOME": str(own / "cache")}
        words = ("run", str(topology), "--node", "pi-a")
        edge = await Child.start(name, *words, environment=environment)
        try:
            await edge.wait_for("ingest.reading")
            if count:
                await edge.wait_for("mqtt.connected", count)
            seen = len(edge.seen("res.sample"))
            await edge.wait_for("res.sample", seen + 10)
            rss[name] = median(line["rss_bytes"] for line in edge.seen("res.sample")[-5:]) / 2**20
        finally:
            await edge.stop()
    return {**{name: round(mib, 1) for name, mib in rss.items()}, "devices": NUM_DEVICES}


async def measure(given: argparse.Namespace) -> Figures:
    """All three parts."""
    with tempfile.TemporaryDirectory(prefix="edged-devices-bench-") as folder, Apache() as kafka:
        port = free_port()
        with Mosquitto(mosquitto.keeping(Mqtt("127.0.0.1", packet_bytes=_PACKET_BYTES)), port=port):
            mqtt, report = f"127.0.0.1:{port}", {}
            if "bridge" in given.parts:
                report["bridge"] = {
                    str(size): await through(kafka.bootstrap, mqtt, size, given.rounds, given.bytes) for size in SIZES
                }
            if "latency" in given.parts:
                report["latency"] = await way(kafka.bootstrap, mqtt, Path(folder), given)
            if "memory" in given.parts:
                report["memory"] = await memory(kafka.bootstrap, mqtt, Path(folder))
            return report


def show(report: Figures, rate: float) -> None:
    for size, figures in report.get("bridge", {}).items():
        ours, bare = figures["bridge"], figures["bare"]
        print(
            f"{size} bytes through the bridge and through a bare loop:"
            f" {ours['messages_per_s']} and {bare['messages_per_s']} messages/s"
            f" ({ours['messages_per_s'] / bare['messages_per_s']:.2f}),"
            f" {ours['cpu_us']} and {bare['cpu_us']} µs of CPU a message"
        )
    for which, figures in report.get("latency", {}).items():
        print(
            f"from sensor to sensor by {_SAID[which]} at {rate:g}/s beside a trainer: median {figures['p50_ms']:g} ms,"
            f" p99 {figures['p99_ms']:g} (by turn {figures['p99_by_turn']}),"
            f" {figures['back']} of {figures['sent']} back"
        )
    if rss := report.get("memory"):
        more = rss["many"] - rss["none"]
        print(f"resident: {rss['none']} MiB without devices, {rss['many']} with {rss['devices']} (+{more:.1f})")


def main() -> None:
    parser = bench_parser(__doc__, "two short turns of each, and few packets")
    parser.add_argument("--rounds", type=int, help="turns of each (3)")
    parser.add_argument("--seconds", type=float, help="of a turn of part 2 (20)")
    parser.add_argument("--rate", type=float, default=200.0, help="samples a second of part 2 (200)")
    parser.add_argument("--parts", type=several(str), default=PARTS, help="of bridge, latency, memory (all)")
    given = parser.parse_args()
    given.rounds = given.rounds or (2 if given.quick else 3)
    given.seconds = given.seconds or (5.0 if given.quick else 20.0)
    given.bytes = (1 << 20) if given.quick else (8 << 20)
    given.images = 2_000 if given.quick else 6_000
    print(machine(), flush=True)
    report = asyncio.run(measure(given))
    show(report, given.rate)
    if given.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
