"""Any Kafka client is a device: it publishes images and reads their predictions."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from edged.adapters.datasets.registry import open_dataset
from edged.adapters.images import encode
from edged.cli.demo.observer import archived_samples
from edged.domain.samples.codec import decode_raw
from edged.domain.topology import Stream
from tests.support.requirements import require
from tests.support.site import Site, running, until_archived


class Kcat:
    """Debian's client, with the commands that the pages show. The embedded broker is too new for it."""

    def __init__(self, bootstrap: str) -> None:
        if shutil.which("kcat") is None:
            require("no kcat on the PATH (Debian: kcat)")
        self._bootstrap = bootstrap

    async def publish(self, topic: str, label: str | None, file: Path) -> None:
        key = () if label is None else ("-k", label)
        await self._run("-P", "-b", self._bootstrap, "-t", topic, *key, str(file))

    async def read(self, topic: str, count: int) -> list[tuple[str, str]]:
        """(key, value) of the first `count` records, as soon as they are there."""
        told = await self._run("-C", "-b", self._bootstrap, "-t", topic, "-c", str(count), "-f", "%k %s\n")
        return [(key, value) for key, _, value in (line.partition(" ") for line in told.splitlines())]

    @staticmethod
    async def _run(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "kcat", *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        return out.decode()


class Librdkafka:
    """The C client that other languages wrap."""

    def __init__(self, bootstrap: str) -> None:
        self._settings = {"bootstrap.servers": bootstrap}

    async def publish(self, topic: str, label: str | None, file: Path) -> None:
        def work() -> None:
            producer = Producer(self._settings)
            producer.produce(topic, file.read_bytes(), label)
            assert producer.flush() == 0

        await asyncio.to_thread(work)

    async def read(self, topic: str, count: int) -> list[tuple[str, str]]:
        """(key, value) of the first `count` records, as soon as they are there."""

        def work() -> list[tuple[str, str]]:
            consumer = Consumer({**self._settings, "group.id": "foreign", "enable.auto.commit": False})
            consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
            found: list[Message] = []
            while len(found) < count:
                found += consumer.consume(count - len(found), timeout=1)
            consumer.close()
            assert [each.error() for each in found] == [None] * count
            return [((each.key() or b"").decode(), (each.value() or b"").decode()) for each in found]

        return await asyncio.to_thread(work)


def photos(folder: Path, stream: Stream) -> list[tuple[str, str | None, Path]]:
    """(device, label, file) of real images: raw pixels and JPEGs, two of each labelled, one of each not."""
    dataset = open_dataset("fashion-mnist-small")
    found: list[tuple[str, str | None, Path]] = []
    for index in range(6):
        item = dataset.sample("test", index)
        device, suffix = ("cam-01", "raw") if index < 3 else ("cam-03", "jpg")
        pixels = decode_raw(item.payload, stream)
        file = folder / f"photo-{index}.{suffix}"
        file.write_bytes(item.payload if suffix == "raw" else encode(pixels, "jpeg"))
        found.append((device, None if index % 3 == 2 else item.label, file))
    return found


@pytest.mark.parametrize(("broker", "client"), [("apache_kafka", Kcat), ("embedded_broker", Librdkafka)])
async def test_a_foreign_clients_images_are_archived_and_predicted(request, tmp_path, broker, client):
    """The key is the label, no key leaves the image unlabelled, the value is the file's bytes; JSON comes back."""
    bootstrap = request.getfixturevalue(broker).bootstrap
    foreign = client(bootstrap)
    async with running(Site(tmp_path, bootstrap, site="foreign", epochs=1)) as site:
        vault, _, _ = await site.serve()
        published = photos(tmp_path, site.loaded().stream("fashion"))

        for device, label, file in published:
            await foreign.publish(f"foreign.iot.{device}", label, file)
        predictions = await foreign.read("foreign.predictions.pi-a", len(published))
        await until_archived(vault, len(published))
        kept = sorted(archived_samples(site.loaded()), key=lambda each: (each.device, each.offset))

    identities = [("cam-01", 0), ("cam-01", 1), ("cam-01", 2), ("cam-03", 0), ("cam-03", 1), ("cam-03", 2)]
    assert [(each.device, each.offset) for each in kept] == identities
    assert [(each.device, each.label, each.payload) for each in kept] == [
        (device, label, file.read_bytes()) for device, label, file in published
    ]
    assert sorted((key, json.loads(value)["offset"]) for key, value in predictions) == identities
    labels = set(site.loaded().stream("fashion").labels)
    for key, value in predictions:
        assert_prediction(json.loads(value), device=key, labels=labels)


def assert_prediction(told: dict[str, Any], *, device: str, labels: set[str]) -> None:
    assert told["device"] == device
    assert set(told["probabilities"]) == labels
    assert sum(told["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert told["label"] == max(told["probabilities"], key=told["probabilities"].__getitem__)
    assert told["probability"] == told["probabilities"][told["label"]]
    assert told["generation"] >= 1
    assert told["latency_ms"] > 0
