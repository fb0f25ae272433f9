"""The loop of intake on real brokers, ended in the middle of its work."""

import asyncio
import contextlib
import dataclasses
import random

import pytest

from edged.adapters.kafka.log import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.domain.samples import pack as packs
from edged.domain.topology import Kafka
from edged.ports import TopicPartition, TopicSpec
from tests.support.intake import TOPOLOGY, from_device, grey, intake

NUM_RECORDS = 20_000


@pytest.fixture(params=[pytest.param("embedded_broker", marks=pytest.mark.slow), "apache_kafka"])
def bootstrap(request):
    return request.getfixturevalue(request.param).bootstrap


async def identities(log, topic):
    """(device, partition, offset) of all samples in the archive topic."""
    high = (await log.watermarks([topic]))[topic].high
    found = []
    async with log.reader({topic: 0}) as reader:
        at = 0
        while at < high:
            for record in await reader.poll(max_records=16, timeout_s=5):
                at = record.offset + 1
                found += [(s.device, s.partition, s.offset) for s in packs.decode(record.value).samples]
    return found


async def test_ended_at_any_moment_every_sample_is_in_the_archive_topic_once(bootstrap):
    """Each run has a client and objects of its own and is cut off after some milliseconds, as a crash would.

    The later ones are given more time: on a slow machine some need it to come to anything.
    """
    rng = random.Random(0)  # noqa: S311 - picks moments, guards nothing
    topology = dataclasses.replace(TOPOLOGY, site=f"intake-{rng.getrandbits(32):x}", iot=TOPOLOGY.iot[:1])
    kafka = Kafka((bootstrap,))
    device = TopicPartition(topology.device_topic("cam"))
    archive = TopicPartition(topology.archive_topic("grey", "pi"))
    async with KafkaLog(kafka, RecordingHealth()) as devices:
        await devices.ensure([TopicSpec(each) for each in (*device[:1], *archive[:1])])
        await devices.append(
            [dataclasses.replace(from_device("cam", grey(n)), topic=device.topic) for n in range(NUM_RECORDS)]
        )
        runs = 0
        while len(await identities(devices, archive)) < NUM_RECORDS:
            async with KafkaLog(kafka, RecordingHealth()) as log:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(intake(log, topology).uplink.run(), 0.1 + rng.random() * runs / 10)
            runs += 1
        assert await identities(devices, archive) == [("cam", 0, n) for n in range(NUM_RECORDS)]
