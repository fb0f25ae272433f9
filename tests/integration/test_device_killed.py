"""Devices with a buffer, as real processes killed with -9 at any moment: all that was published arrives, once."""

import asyncio
import random
import sys
from collections import Counter

import pytest

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.domain.samples import returned
from edged.domain.topology import Kafka
from edged.ports import TopicPartition
from edged.reading import read_to_end
from tests.support.bridged import SITE, bridged
from tests.support.mosquitto import Mosquitto, need_mosquitto


class Program:
    """The device's program: `published` has the numbers for which `publish` has returned, over all its lives."""

    def __init__(self, transport, address, folder):
        self.published: list[int] = []
        self._lives = 0
        self._arguments = [sys.executable, "-m", "tests.support.device_publisher", transport, address, str(folder)]

    async def _started(self, first):
        return await asyncio.create_subprocess_exec(*self._arguments, str(first), stdout=asyncio.subprocess.PIPE)

    async def live(self, count):
        """Publish at least this many numbers, and be killed."""
        self._lives += 1
        process = await self._started(1_000_000 * self._lives)
        for _ in range(count):
            self.published.append(int(await process.stdout.readline()))
        process.kill()
        self.published += [int(line) for line in (await process.stdout.read()).split(b"\n")[:-1]]
        await process.wait()

    async def empty(self):
        """Send what is left."""
        process = await self._started("-")
        assert await process.stdout.readline() == b"empty\n"
        assert await process.wait() == 0


def assert_all_are_there_once(program, records):
    arrived = Counter(int.from_bytes(record.value) for record in records)
    assert set(program.published) <= set(arrived)
    assert set(arrived.values()) == {1}
    assert len({returned.sample_id(record.headers) for record in records}) == len(records)


async def test_over_kafka_all_arrives_once(embedded_broker, tmp_path):
    chosen = random.Random(7)  # noqa: S311
    program = Program("kafka", embedded_broker.bootstrap, tmp_path)
    for _ in range(3):
        await program.live(chosen.randrange(1, 200))
    await program.empty()
    partition = TopicPartition(f"{SITE}.iot.cam-kafka")
    async with (
        KafkaLog(Kafka((embedded_broker.bootstrap,)), RecordingHealth()) as log,
        log.reader({partition: 0}) as reader,
    ):
        records = [record async for some in read_to_end(log, reader, partition, max_records=1000) for record in some]
    assert_all_are_there_once(program, records)


@pytest.mark.slow
async def test_over_mqtt_all_arrives_once_also_when_mosquitto_is_killed_and_forgets(tmp_path):
    need_mosquitto()
    chosen = random.Random(7)  # noqa: S311
    with Mosquitto() as mosquitto:
        program = Program("mqtt", mosquitto.bootstrap, tmp_path)
        async with bridged(mosquitto.mqtt(), "cam-mqtt") as log:
            for forgets in (False, True, True):
                async with asyncio.TaskGroup() as group:
                    group.create_task(program.live(chosen.randrange(50, 300)))
                    await asyncio.sleep(chosen.random())
                    mosquitto.kill()
                    if forgets:
                        mosquitto.forget()
                    await asyncio.to_thread(mosquitto.start)
            await program.empty()
            records = log.records(f"{SITE}.iot.cam-mqtt")
    assert_all_are_there_once(program, records)
