"""Several archive nodes over one log and one archive: each source is archived once, and taken over."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.adapters.memory.archive import MemoryArchive
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog, MemoryMembership
from edged.adapters.parquet.retrying import RetryingArchive
from edged.domain.archive import protocol
from edged.domain.archive.protocol import SnapshotPart, SnapshotRequest
from edged.domain.samples import pack as packs
from edged.errors import StorageError
from edged.ports import Message, TopicPartition, TopicSpec
from edged.services.archive.archiver import Archiver, ArchiverSettings, Source
from edged.services.archive.epoch_server import EpochServer
from edged.services.archive.sharing import Share, Sharing
from edged.services.archive.trimming import Trimming
from tests.support.archive_samples import BORDER, pack
from tests.support.fake_time import until
from tests.support.properties import examples

GROUP = "site.archiver"
SOURCES = tuple(Source("fashion", edge, f"site.archive.fashion.{edge}") for edge in ("pi-a", "pi-b"))
PI_A, PI_B = SOURCES
REQUESTS = "site.archive.requests"
EVERYTHING = {TopicPartition(PI_A.topic), TopicPartition(PI_B.topic), *(TopicPartition(REQUESTS, i) for i in range(2))}


class Node:
    """An archive node's services."""

    def __init__(self, site: "Site", flush_s: float) -> None:
        settings = ArchiverSettings(flush_s=flush_s)
        self.health = RecordingHealth()
        archive = RetryingArchive(site.store, self.health, is_shared=True)
        self.share = Share()
        self.sharing = Sharing(site.log, self.share, "site.archive", [*(each.topic for each in SOURCES), REQUESTS])
        self.archiver = Archiver(site.log, archive, SOURCES, GROUP, lambda: settings, border=BORDER, share=self.share)
        self.server = EpochServer(
            site.log,
            site.store,
            self.health,
            border=BORDER,
            edges=["pi-a", "pi-b"],
            requests_topic=REQUESTS,
            epochs_topic="site.epochs.{}".format,
            group="site.epoch_server",
            share=self.share,
        )
        self.retention = Trimming(site.log, self.archiver, SOURCES, self.health, trims=True, every_s=60)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        services = (self.sharing, self.archiver, self.server, self.retention)
        self._tasks = [asyncio.create_task(each.run()) for each in services]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    @property
    def sources(self) -> set[str]:
        return {each.topic for each in self.share.held} & {each.topic for each in SOURCES}


class Site:
    def __init__(self) -> None:
        self.log = MemoryLog()
        self.store = MemoryArchive()
        self.sent = 0

    async def make_topics(self) -> None:
        await self.log.ensure([*(TopicSpec(each.topic) for each in SOURCES), TopicSpec(REQUESTS, partitions=2)])

    @contextlib.asynccontextmanager
    async def node(self, flush_s: float = 10.0) -> AsyncIterator[Node]:
        node = Node(self, flush_s)
        node.start()
        try:
            yield node
        finally:
            await node.stop()

    async def send(self, count: int = 1) -> None:
        """Of both edges."""
        for _ in range(count):
            for source in SOURCES:
                sample = pack(4 * self.sent, device=f"of-{source.edge}")
                await self.log.append([Message(source.topic, packs.encode(sample))])
            self.sent += 1

    def archived(self, source: Source) -> list[int]:
        blocks = self.store.blocks(source.stream, source.edge)
        return [each.offset for offset in sorted(blocks) for each in blocks[offset].samples]

    def is_archived(self) -> bool:
        return all(self.archived(source) == list(range(4 * self.sent)) for source in SOURCES)

    def member(self) -> MemoryMembership:
        """The one that joined first."""
        return self.log._members["site.archive"][0]


@pytest.fixture
async def site() -> Site:
    site = Site()
    await site.make_topics()
    return site


@pytest.mark.looptime
async def test_two_nodes_share_the_sources_and_the_requests(site: Site, log_lines):
    async with site.node() as north, site.node() as south:
        await until(lambda: len(north.share.held) == len(south.share.held) == 2)
        assert north.share.held | south.share.held == EVERYTHING
        assert len(north.sources) == len(south.sources) == 1
        await site.send(3)
        await until(lambda: all(each.archiver.statistics().archived_samples == 12 for each in (north, south)))
        assert site.is_archived()
        assert south.sharing.statistics().held_partitions == 2
    assert [line["held"] for line in log_lines("archive.assigned")] == [4, 2, 4]
    assert [line["held"] for line in log_lines("archive.revoked")] == [2]


@pytest.mark.looptime
async def test_who_loses_a_source_drops_what_it_has_read_of_it_and_commits_no_more_of_it(site: Site):
    async with site.node(flush_s=100) as north:
        await until(lambda: north.share.held == EVERYTHING)
        await site.send(3)
        await until(lambda: north.archiver.statistics().queue_bytes > 0 and not north.archiver.statistics().lag_records)
        before = north.archiver.statistics().queue_bytes
        async with site.node(flush_s=1) as south:
            await until(lambda: bool(south.sources))
            [theirs] = [source for source in SOURCES if source.topic in south.sources]
            await until(lambda: site.archived(theirs) == list(range(12)))
            await until(lambda: north.archiver.statistics().queue_bytes < before)
            assert theirs.topic not in {partition.topic for partition in north.archiver.durable()}
            await until(lambda: site.log.committed_offsets == {(GROUP, TopicPartition(theirs.topic)): 3})


@pytest.mark.looptime
async def test_a_stop_gives_the_sources_away_after_the_last_files(site: Site, log_lines):
    async with site.node(flush_s=100) as south:
        async with site.node(flush_s=100) as north:
            await until(lambda: len(north.share.held) == len(south.share.held) == 2)
            await site.send(3)
            await until(lambda: north.archiver.statistics().queue_bytes > 0)
            held = north.sources
            stopped_s = asyncio.get_running_loop().time()
        [theirs] = [source for source in SOURCES if source.topic in held]
        assert site.archived(theirs) == list(range(12))
        await until(lambda: south.share.held == EVERYTHING)
        assert asyncio.get_running_loop().time() - stopped_s < 1
        await site.send()
        await until(site.is_archived)
    assert log_lines("archive.overtaken") == []


@pytest.mark.looptime
async def test_a_node_that_does_not_know_that_it_was_given_up_doubles_nothing(site: Site, log_lines):
    async with site.node(flush_s=3) as north:
        await until(lambda: north.share.held == EVERYTHING)
        await site.send(2)
        site.log.expire(site.member())
        async with site.node(flush_s=2) as south:
            await until(lambda: south.share.held == EVERYTHING)
            for _ in range(10):
                await site.send()
                await asyncio.sleep(1)
            assert north.share.held == EVERYTHING
            await until(site.is_archived)
    assert log_lines("archive.overtaken") != []
    assert north.health.history == south.health.history == []


@pytest.mark.looptime
async def test_what_is_wrong_with_a_source_is_told_by_who_has_it(site: Site):
    async with site.node(flush_s=1) as north:
        await until(lambda: north.share.held == EVERYTHING)
        site.store.failures = {(each.stream, each.edge): StorageError("no room") for each in SOURCES}
        await site.send()
        await until(lambda: len(north.health.reasons) == 2)
        async with site.node(flush_s=1) as south:
            await until(lambda: len(north.health.reasons) == len(south.health.reasons) == 1)
            [part] = south.health.reasons
            assert part.removeprefix("archive/fashion/") in {each.rpartition(".")[2] for each in south.sources}


@pytest.mark.looptime
async def test_of_what_another_node_has_nothing_is_deleted(site: Site):
    async with site.node(flush_s=1) as north:
        await until(lambda: north.share.held == EVERYTHING)
        for _ in range(3):
            await site.send()
            await until(site.is_archived)
        async with site.node(flush_s=1) as south:
            await until(lambda: bool(south.sources))
            await asyncio.sleep(61)
            [theirs] = [source for source in SOURCES if source.topic in south.sources]
            [ours] = [source for source in SOURCES if source.topic in north.sources]
            assert len(site.log.records(theirs.topic)) == 3
            assert len(site.log.records(ours.topic)) == 1


@pytest.mark.looptime
async def test_each_request_is_answered_by_who_holds_its_partition_and_taken_over(site: Site):
    async def ask(name: str, partition: int) -> None:
        request = SnapshotRequest(name, "pi-a", "fashion")
        await site.log.append([Message(REQUESTS, protocol.encode_request(request), partition=partition)])

    def answered() -> list[str]:
        parts = [protocol.decode_part(record.value) for record in site.log.records("site.epochs.pi-a")]
        return [part.request for part in parts if isinstance(part, SnapshotPart)]

    async with site.node() as south:
        async with site.node() as north:
            await until(lambda: len(north.share.held) == len(south.share.held) == 2)
            await ask("r-0", 0)
            await ask("r-1", 1)
            await until(lambda: len(answered()) == 2)
        await ask("r-2", 0)
        await ask("r-3", 1)
        await until(lambda: set(answered()) == {"r-0", "r-1", "r-2", "r-3"})
        await asyncio.sleep(5)
    again = len(answered()) - 4
    assert again <= 2, "of each node at most the one that it answered before it could commit"


@pytest.mark.looptime
@examples(60)
@given(
    st.lists(st.sampled_from(["start", "stop", "expire", "send", "wait"]), max_size=25),
    st.lists(st.floats(0.0, 3.0), min_size=25, max_size=25),
)
async def test_whatever_nodes_come_and_go_every_sample_is_archived_once(happens: list[str], pauses: list[float]):
    site = Site()
    await site.make_topics()
    nodes: list[Node] = []
    for what, pause_s in zip(happens, pauses, strict=False):
        if what == "start" and len(nodes) < 3:
            nodes.append(Node(site, flush_s=1 + len(nodes)))
            nodes[-1].start()
        elif what == "stop" and nodes:
            await nodes.pop(0).stop()
        elif what == "expire" and site.log._members.get("site.archive"):
            site.log.expire(site.member())
        elif what == "send":
            await site.send()
        await asyncio.sleep(pause_s)
    async with site.node():
        await until(site.is_archived)
        for node in nodes:
            await node.stop()
    assert all(not site.store.gaps(source.stream, source.edge) for source in SOURCES)
