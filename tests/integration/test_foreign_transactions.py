"""A site whose topics other clients write to in transactions: what they commit counts once, and nothing else does."""

from collections.abc import Sequence
from itertools import count

from edged.adapters.datasets.registry import open_dataset
from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.domain.topology import Kafka
from edged.ports import Message, TopicPartition
from edged.reading import read_to_end
from tests.support.foreign_producers import UNREADABLE, transaction, write_batch
from tests.support.site import Place, Site, assert_each_once, eventually, following, own_name, running, stopped


async def committed(log: KafkaLog, topic: str, device: str) -> list[Place]:
    """Where the topic's records are."""
    partition = TopicPartition(topic)
    async with log.reader({partition: 0}) as reader:
        read = read_to_end(log, reader, partition, max_records=500)
        return [(device, 0, record.offset) async for records in read for record in records]


async def test_what_is_committed_is_archived_and_predicted_once_and_a_start_waits_for_nobody(tmp_path, apache_kafka):
    bootstrap = apache_kafka.bootstrap
    site = Site(tmp_path, bootstrap, site=own_name(tmp_path), epochs=1)
    images, numbers = open_dataset("fashion-mnist-small"), count()
    device, packs = site.loaded().device_topic("cam-01"), site.loaded().archive_topic("fashion", "pi-a")

    def samples(number: int) -> Sequence[Message]:
        return [Message(device, images.sample("test", next(numbers)).payload, b"boot") for _ in range(number)]

    async with running(site), KafkaLog(Kafka((bootstrap,)), RecordingHealth()) as log:
        vault, edge, companion = await site.serve(200)
        for number, is_committed in ((20, True), (15, False), (10, True)):
            async with transaction(bootstrap) as foreign:
                await foreign.append(samples(number))
                await (foreign.commit() if is_committed else foreign.abort())
        await write_batch(bootstrap, device, UNREADABLE)

        await stopped(edge)
        async with transaction(bootstrap) as foreign:
            await foreign.append([Message(packs, b"no pack")])
            edge = await site.start("run", "pi-a")
            await edge.wait_for("ingest.reading")
            await foreign.abort()
        await log.append(samples(5))

        places = await committed(log, device, "cam-01")
        assert len(places) == 35

        async def is_done() -> bool:
            return len(site.archived()) >= 35 and len(await site.predicted()) >= 35

        await eventually(is_done, vault)
        assert_each_once(site.archived(), places)
        assert_each_once(await site.predicted(), places)
        for node in (edge, companion, vault):
            while (await following(node, "res.sample")).get("lag_records"):
                pass
