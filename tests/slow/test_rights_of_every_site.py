"""Every site of config/, and each mode of exchange, whole, with exactly the rights that `edged topics` prints."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.device import Device
from edged.domain.topology import Topology
from edged.domain.topology.topics import nodes
from edged.ports import TopicPartition
from tests.support.brokers import free_port
from tests.support.examples import EXAMPLES, example, made_samples
from tests.support.mosquitto import need_mosquitto
from tests.support.printed_mosquitto import PrintedMosquitto
from tests.support.secured import SecuredKafka
from tests.support.site import Site, eventually, running

PER_DEVICE = 250
SITES = [
    *((file, "all_reduce") for file in EXAMPLES),
    ("06-four-edges.yaml", "parameter_server"),
    ("06-four-edges.yaml", "parameter_server\n    server: pi-east"),
]


async def num_predicted(site: Site) -> int:
    """Predictions of all edges."""
    topology = site.loaded()
    topics = [TopicPartition(topology.predictions_topic(edge.name)) for edge in topology.edges]
    async with KafkaLog(topology.kafka, RecordingHealth()) as log:
        return sum(marks.high for marks in (await log.watermarks(topics)).values())


def as_itself(topology: Topology, device: str, kafka: SecuredKafka) -> Topology:
    """As the device would read it: each user's password at the MQTT broker is its name."""
    mqtt = topology.mqtt and replace(topology.mqtt, username=device, password=device)
    return replace(topology, kafka=kafka.kafka(device), mqtt=mqtt)


@contextlib.asynccontextmanager
async def mqtt_broker(topology: Topology) -> AsyncIterator[None]:
    """What the topology needs of one, by the printed settings and rights."""
    if topology.mqtt is None:
        yield
        return
    need_mosquitto()
    broker = PrintedMosquitto(topology)
    await asyncio.to_thread(broker.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(broker.__exit__)


@pytest.mark.parametrize(("file", "mode"), SITES)
async def test_it_runs_whole(file: str, mode: str, secured_kafka: SecuredKafka, tmp_path: Path):
    name = f"{Path(file).stem}-{mode.replace('parameter_server', 'server').split()[-1]}"
    site = Site(tmp_path, secured_kafka, site=name)
    mqtt = f'{{broker: "127.0.0.1:{free_port()}", username: "${{NODE}}", password: "${{NODE}}", window: 8}}'
    text = example(file, name, secured_kafka.section(), site.archive_folder.as_uri(), mqtt=mqtt)
    site.topology.write_text(text.replace("mode: all_reduce", f"mode: {mode}"))
    topology = site.loaded()
    await asyncio.to_thread(secured_kafka.add_users, nodes(topology))
    of_kafka, _, _ = (await site.printed()).partition("\n# MQTT")
    await asyncio.to_thread(secured_kafka.run, of_kafka)

    async with mqtt_broker(topology), running(site):
        vaults = [await site.start("run", archive.name) for archive in topology.archive]
        edges = [await site.start("run", edge.name) for edge in topology.edges]
        for device in topology.iot:
            async with Device(as_itself(topology, device.name, secured_kafka), device.name, gives_up=True) as publisher:
                await publisher.publish_many(list(islice(made_samples(topology, device.name), PER_DEVICE)))

        async def archived() -> bool:
            samples = (int(line["samples"]) for vault in vaults for line in vault.seen("archive.flushed"))
            return sum(samples) >= PER_DEVICE * len(topology.iot)

        await eventually(archived, vaults[0])
        for edge in edges:
            await edge.wait_for("train.finished")
        companions = [await site.start("infer", edge.name) for edge in topology.edges]
        predicted = PER_DEVICE * sum(device.stream == topology.jobs[0].stream for device in topology.iot)

        async def enough() -> bool:
            return await num_predicted(site) >= predicted

        await eventually(enough, companions[0])
        assert await num_predicted(site) == predicted
        for node in (*vaults, *edges, *companions):
            assert not [line for line in node.seen("health.degraded") if "may not" in line["reason"]]
            assert not node.seen("kafka.topics_missing")
            assert not node.seen("kafka.settings_unseen")
            assert not node.seen("mqtt.limits")
