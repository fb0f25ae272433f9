"""Of what is archived Kafka keeps what a source's newest file holds, where the archive may delete; or one is told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from edged.adapters.memory.archive import MemoryArchive
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.adapters.parquet.retrying import RetryingArchive
from edged.domain.samples import pack as packs
from edged.errors import ArchiveFull
from edged.ports import Message, TopicPartition
from edged.services.archive import trimming
from edged.services.archive.archiver import Archiver, ArchiverSettings, Source
from edged.services.archive.trimming import Trimming
from tests.support.archive_samples import BORDER, pack

pytestmark = pytest.mark.looptime

PI_A = Source("fashion", "pi-a", "site.archive.fashion.pi-a")
PI_B = Source("fashion", "pi-b", "site.archive.fashion.pi-b")
TOPIC_A, TOPIC_B = TopicPartition(PI_A.topic), TopicPartition(PI_B.topic)


class Vault:
    """An archive node over a log in memory."""

    def __init__(self, *, trims: bool = True) -> None:
        self.log = MemoryLog()
        self.store = MemoryArchive()
        self.health = RecordingHealth()
        self._trims = trims

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Trimming]:
        archive = RetryingArchive(self.store, self.health)
        sources = (PI_A, PI_B)
        settings = ArchiverSettings(flush_s=1)
        archiver = Archiver(self.log, archive, sources, "site.archiver.vault", lambda: settings, border=BORDER)
        kept = Trimming(self.log, archiver, sources, self.health, trims=self._trims, every_s=60)
        tasks = [asyncio.create_task(each.run()) for each in (archiver, kept)]
        try:
            yield kept
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def send(self, *firsts: int, to: Source = PI_A) -> None:
        values = [packs.encode(pack(first, device=f"of-{to.edge}")) for first in firsts]
        await self.log.append([Message(to.topic, value) for value in values])

    def offsets(self, source: Source = PI_A) -> list[int]:
        return [record.offset for record in self.log.records(source.topic)]


async def test_what_is_archived_is_deleted_but_for_each_sources_newest_file(log_lines):
    vault = Vault()
    await vault.send(0)
    await vault.send(0, to=PI_B)
    async with vault.running() as kept:
        await asyncio.sleep(5)
        await vault.send(4, 8)
        await asyncio.sleep(60)
        assert (vault.offsets(), vault.offsets(PI_B)) == ([1, 2], [0])
        await vault.send(12, 16)
        await asyncio.sleep(60)
        assert vault.offsets() == [3, 4]
        assert kept.statistics().kept_bytes > 0
    assert len(vault.store.blocks("fashion", "pi-a")) == 5
    lines = log_lines("archive.trimmed")
    assert [(line["source"], line["first_offset"], line["next_offset"]) for line in lines] == [
        ("pi-a", 0, 1),
        ("pi-a", 1, 3),
    ]
    assert vault.health.history == []


async def test_what_is_not_durable_stays():
    vault = Vault()
    await vault.send(0)
    async with vault.running():
        await asyncio.sleep(5)
        vault.store.failure = ArchiveFull("no space")
        await vault.send(4, 8)
        await asyncio.sleep(300)
        assert vault.offsets() == [0, 1, 2]
        vault.store.failure = None
        await asyncio.sleep(180)
        assert vault.offsets() == [1, 2]


async def test_a_restart_deletes_nothing_that_it_has_not_archived_itself():
    """Its position may be of a topic that is no more."""
    vault = Vault()
    await vault.send(0, 4, 8)
    async with vault.running():
        await asyncio.sleep(5)
    async with vault.running():
        await asyncio.sleep(120)
        assert vault.offsets() == [0, 1, 2]
        await vault.send(12)
        await asyncio.sleep(62)
        assert vault.offsets() == [3]
    assert len(vault.store.blocks("fashion", "pi-a")) == 4


async def test_nothing_is_deleted_of_a_topic_that_was_recreated_before_it_is_archived():
    vault = Vault()
    await vault.send(0)
    async with vault.running():
        await asyncio.sleep(5)
        await vault.send(4, 8)
        await asyncio.sleep(5)
        vault.store.failure = ArchiveFull("no space")
        vault.log.delete(PI_A.topic)
        await vault.send(100, 104, 108, 112)
        await asyncio.sleep(300)
        assert vault.offsets() == [0, 1, 2, 3]


async def test_without_the_right_all_stays_and_growth_is_told_in_words(monkeypatch):
    monkeypatch.setattr(trimming, "MANY_BYTES", 2048)
    vault = Vault(trims=False)
    async with vault.running() as kept:
        for first in range(0, 400, 40):
            await vault.send(*range(first, first + 40, 4))
            await asyncio.sleep(60)
        assert len(vault.offsets()) == 100
        stored = vault.store.blocks("fashion", "pi-a").values()
        assert kept.statistics().kept_bytes == pytest.approx(sum(each.num_bytes for each in stored), rel=0.2)
        assert "`trim: true`" in vault.health.reasons["archive_topics"]
        vault.log.truncate(TOPIC_A, 99)
        await asyncio.sleep(60)
    assert vault.health.history == [("degraded", "archive_topics"), ("recovered", "archive_topics")]


async def test_a_broker_that_deletes_nothing_is_told_of_once():
    vault = Vault()
    vault.log.trims = False
    await vault.send(0)
    async with vault.running():
        await asyncio.sleep(5)
        await vault.send(4)
        await asyncio.sleep(300)
    assert vault.offsets() == [0, 1]
    assert vault.health.history == [("degraded", "archive_topics")]
    assert vault.health.reasons == {"archive_topics": "archived packs stay in Kafka: this broker deletes no records"}


async def test_it_waits_for_the_broker():
    vault = Vault()
    await vault.send(0)
    async with vault.running():
        await asyncio.sleep(5)
        await vault.send(4)
        await asyncio.sleep(5)
        vault.log.unavailable = True
        await asyncio.sleep(300)
        vault.log.unavailable = False
        await asyncio.sleep(65)
        assert vault.offsets() == [1]
