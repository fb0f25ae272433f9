"""Every site of config/, and each mode of exchange, whole, with exactly the rights that `edged topics` prints."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edged.adapters.images import encode
from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.device import Device
from edged.domain.topology import Topology
from edged.domain.topology.topics import nodes
from edged.ports import TopicPartition
from tests.support.secured import SecuredKafka
from tests.support.site import Site, eventually, running, until_archived

CONFIG = Path(__file__).parents[2] / "config"
PER_DEVICE = 250
SITES = [
    *((path.name, "all_reduce") for path in sorted(CONFIG.glob("*.yaml"))),
    ("06-four-edges.yaml", "parameter_server"),
    ("06-four-edges.yaml", "parameter_server\n    server: pi-east"),
]


def text_of(file: str, mode: str, kafka: SecuredKafka, archive: Path) -> str:
    """The site's file, for one epoch, at this Kafka and this archive."""
    text = (CONFIG / file).read_text()
    of_vault = f'archive: [{{name: vault, url: "{archive.as_uri()}", flush: 1s}}]\n\n'
    text = re.sub(r"(?ms)^kafka:\n.*?(?=^streams:)", lambda _: f"kafka: {kafka.section()}\n\n", text)
    text = re.sub(r"(?ms)^archive:[^\n]*\n.*?(?=^training:)", lambda _: of_vault, text)
    text = re.sub(r"(?m)^  epochs: \d+", "  epochs: 1", text)
    text = re.sub(r"warmup: \d+", "warmup: 0.5", text)
    return text.replace("mode: all_reduce", f"mode: {mode}")


def samples(topology: Topology, device: str) -> Iterator[tuple[bytes, str | None]]:
    """Noise, as the device's stream has it."""
    spec = topology.device(device)
    stream = topology.stream(spec.stream)
    generator = np.random.default_rng(len(device))
    for number in range(PER_DEVICE):
        label = stream.labels[number % len(stream.labels)] if stream.labels else None
        if spec.codec == "raw" and stream.dtype == "float32":
            yield generator.standard_normal(stream.shape).astype("<f4").tobytes(), label
        else:
            pixels = generator.integers(0, 256, stream.shape, np.uint8)
            yield pixels.tobytes() if spec.codec == "raw" else encode(pixels, spec.codec), label


async def num_predicted(site: Site) -> int:
    """Predictions of all edges."""
    topology = site.loaded()
    topics = [TopicPartition(topology.predictions_topic(edge.name)) for edge in topology.edges]
    async with KafkaLog(topology.kafka, RecordingHealth()) as log:
        return sum(marks.high for marks in (await log.watermarks(topics)).values())


@pytest.mark.parametrize(("file", "mode"), SITES)
async def test_it_runs_whole(file: str, mode: str, secured_kafka: SecuredKafka, tmp_path: Path):
    site = Site(tmp_path, secured_kafka)
    name = f"{Path(file).stem}-{mode.replace('parameter_server', 'server').split()[-1]}"
    text = text_of(file, mode, secured_kafka, site.archive_folder)
    site.topology.write_text(re.sub(r"(?m)^site: \S+", f"site: {name}", text))
    topology = site.loaded()
    await asyncio.to_thread(secured_kafka.add_users, nodes(topology))
    await asyncio.to_thread(secured_kafka.run, await site.printed())

    async with running(site):
        vault = await site.start("run", "vault")
        edges = [await site.start("run", edge.name) for edge in topology.edges]
        for device in topology.iot:
            as_itself = replace(topology, kafka=secured_kafka.kafka(device.name))
            async with Device(as_itself, device.name, gives_up=True) as publisher:
                await publisher.publish_many(list(samples(topology, device.name)))
        await until_archived(vault, PER_DEVICE * len(topology.iot))
        for edge in edges:
            await edge.wait_for("train.finished")
        companions = [await site.start("infer", edge.name) for edge in topology.edges]
        predicted = PER_DEVICE * sum(device.stream == topology.jobs[0].stream for device in topology.iot)

        async def enough() -> bool:
            return await num_predicted(site) >= predicted

        await eventually(enough, companions[0])
        assert await num_predicted(site) == predicted
        for node in (vault, *edges, *companions):
            assert not [line for line in node.seen("health.degraded") if "may not" in line["reason"]]
            assert not node.seen("kafka.topics_missing")
            assert not node.seen("kafka.settings_unseen")
