"""Records that no device should send, through real brokers, between good ones: each is dead-lettered, nothing stops."""

import asyncio
import io
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from confluent_kafka import Producer
from PIL import Image

from edged.adapters.datasets.registry import open_dataset
from edged.adapters.images import encode
from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.cli.demo.observer import archived_samples, observe
from edged.domain.samples.codec import decode_raw
from edged.domain.topology import MIB, Topology
from edged.ports import Record, TopicPartition
from tests.support.brokers import Apache, need_apache
from tests.support.site import Site, following, running, until_archived

MAX_GROWTH = 64 * MIB
"""Of the edge's memory above what it needs when training is over: no poison is worth more."""


class Sent(NamedTuple):
    """What a device sends; `reason` is None when it is a good sample."""

    device: str
    key: bytes | None
    value: bytes | None
    reason: str | None = None


def png_of_100_megapixels() -> bytes:
    """A file of some 12 kB."""
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "png", optimize=True)
    assert len(file.getvalue()) < 100_000
    return file.getvalue()


def poison(raw: bytes, jpeg: bytes, largest_key: int) -> list[Sent]:
    return [
        Sent("cam-01", b"boot", b"", "empty"),
        Sent("cam-01", b"boot", None, "empty"),
        Sent("cam-01", b"boot", raw[:-1], "wrong_length"),
        Sent("cam-01", b"boot", raw * 2, "wrong_length"),
        Sent("cam-01", b"slipper", raw, "unknown_label"),
        Sent("cam-01", b"\xff\xfe", raw, "key_not_text"),
        Sent("cam-01", b"b" * largest_key, raw, "key_too_long"),
        Sent("cam-02", b"boot", png_of_100_megapixels(), "too_many_pixels"),
        Sent("cam-02", b"boot", b"GIF89a", "not_an_image"),
        Sent("cam-02", b"boot", bytes(largest_key), "too_large"),
        Sent("cam-03", b"boot", jpeg[: len(jpeg) // 2], "truncated"),
        Sent("cam-03", b"boot", jpeg[:3], "truncated"),
        Sent("cam-03", b"boot", raw, "not_an_image"),
    ]


def records(topology: Topology, largest_key: int) -> list[Sent]:
    """For each device good samples around every piece of poison, the last record being good."""
    dataset, stream = open_dataset("fashion-mnist-small"), topology.streams[0]
    items = [dataset.sample("test", index) for index in range(20)]
    jpeg = encode(decode_raw(items[0].payload, stream), "jpeg")
    bad: dict[str, list[Sent]] = {device.name: [] for device in topology.iot}
    for each in poison(items[0].payload, jpeg, largest_key):
        bad[each.device].append(each)
    sent = []
    for device in topology.iot:
        for index, item in enumerate(items):
            assert item.label is not None
            pixels = decode_raw(item.payload, stream)
            payload = item.payload if device.codec == "raw" else encode(pixels, device.codec)
            sent += bad[device.name][index : index + 1]
            sent.append(Sent(device.name, item.label.encode(), payload))
    return sent


def produce(bootstrap: str, topology: Topology, sent: Sequence[Sent]) -> None:
    """In order, acknowledged."""
    producer = Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 16 * MIB, "max.in.flight": 1})
    failed: list[object] = []
    for each in sent:
        producer.produce(
            topology.device_topic(each.device), each.value, each.key,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )  # fmt: skip
    assert producer.flush() == 0
    assert failed == []


async def dead_letters(topology: Topology) -> list[Record]:
    """All of them."""
    partition = TopicPartition(topology.dead_letters_topic("pi-a"))
    found: list[Record] = []
    async with KafkaLog(topology.kafka, RecordingHealth()) as log:
        high = (await log.watermarks([partition]))[partition].high
        async with log.reader({partition: 0}) as reader:
            while len(found) < high:
                found += await reader.poll(max_records=100, timeout_s=1)
    return found


def identities(topology: Topology, sent: Sequence[Sent]) -> list[tuple[Sent, tuple[str, int]]]:
    """Each record with its device and offset."""
    counts = {device.name: 0 for device in topology.iot}
    found = []
    for each in sent:
        found.append((each, (each.device, counts[each.device])))
        counts[each.device] += 1
    return found


@pytest.fixture
def generous_kafka():
    """Apache Kafka that takes records of 12 MiB."""
    need_apache()
    limit = str(12 * MIB)
    with Apache({"message.max.bytes": limit, "replica.fetch.max.bytes": limit}) as broker:
        yield broker


@pytest.mark.parametrize(
    ("broker", "largest_key"),
    [("embedded_broker", 900_000), pytest.param("generous_kafka", 10_000_000, marks=pytest.mark.slow)],
)
async def test_poison_is_dead_lettered_with_its_reason_and_costs_nothing_else(request, tmp_path, broker, largest_key):
    """Every good sample is archived and predicted once, the edge's memory stays, and no process notices."""
    bootstrap = request.getfixturevalue(broker).bootstrap
    site = Site(tmp_path, bootstrap, site=f"poison-{broker}", epochs=1)
    site.forks = False
    async with running(site, excused=["ingest.rejected"]):
        topology = site.loaded()
        vault, edge, companion = await site.serve()
        calm = await following(edge, "res.sample")
        sent = identities(topology, records(topology, largest_key))
        good = sorted(identity for each, identity in sent if each.reason is None)

        await asyncio.to_thread(produce, bootstrap, topology, [each for each, _ in sent])
        await until_archived(vault, len(good))
        async with observe(topology) as watching:
            await watching.predictions("pi-a", published=len(sent))
        ends = [await child.stop() for child in (companion, edge, vault)]

        archived = [(each.device, each.offset) for each in archived_samples(topology)]
        async with observe(topology) as watching:
            predicted = [(each.device, each.offset) for each in await watching.predictions("pi-a")]
        letters = await dead_letters(topology)

    assert ends == [0, 0, 0]
    assert sorted(archived) == good
    assert sorted(predicted) == good
    headers = [{key: value.decode() for key, value in each.headers if key != "edged-id"} for each in letters]
    assert sorted((each["device"], int(each["offset"]), each["reason"]) for each in headers) == sorted(
        (*identity, each.reason) for each, identity in sent if each.reason is not None
    )
    assert [each.key.decode() for each in letters if each.key] == [each["device"] for each in headers]
    for child in (companion, edge, vault):
        assert [line for line in child.lines if line["level"] in {"error", "critical"}] == []
    growth = edge.seen("life.stopped")[-1]["peak_rss_bytes"] - calm["rss_bytes"]
    assert growth < MAX_GROWTH, f"{calm['rss_bytes'] / MIB:.1f} MiB, and {growth / MIB:.1f} MiB more at its peak"
