"""A running node forgets by itself, of its own sources; what speaks against it is told until it does no more."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.domain import topology
from edged.domain.archive.retention import Deleted, Limits, Spared, Step
from edged.domain.topology import StreamRetention
from edged.errors import ArchiveUnavailable
from edged.ports import TopicPartition
from edged.services.archive.archiver import Source
from edged.services.archive.retention import Retention
from edged.services.archive.sharing import Share

pytestmark = pytest.mark.looptime

PI_A, PI_B = Source("fashion", "pi-a", "topic-a"), Source("fashion", "pi-b", "topic-b")
REQUESTS = TopicPartition("requests")
RETENTION = topology.Retention(86_400.0, None, (StreamRetention("birds", None, 1 << 30),))


class FakeStore:
    """Says what it is asked for, and does what it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Limits, list[str]]] = []
        self.steps: Sequence[Step] = ()
        self.failure: Exception | None = None

    def retain(self, stream: str, limits: Limits, is_ours: Callable[[str], bool]) -> Iterator[Step]:
        self.asked.append((stream, limits, [name for name in ("pi-a", "pi-b", "_train.x", "gone") if is_ours(name)]))
        if self.failure:
            raise self.failure
        yield from self.steps

    def reserve(self) -> None:
        raise NotImplementedError

    def make_room(self, num_bytes: int) -> Iterator[Step]:
        raise NotImplementedError


class Vault:
    def __init__(self) -> None:
        self.store = FakeStore()
        self.health = RecordingHealth()
        self.share = Share([TopicPartition("topic-a"), TopicPartition("topic-b"), REQUESTS])

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Retention]:
        service = Retention(
            self.store,
            self.health,
            lambda: RETENTION,
            [PI_A, PI_B],
            ["fashion", "birds"],
            REQUESTS,
            self.share,
            every_s=600,
        )
        task = asyncio.create_task(service.run())
        try:
            yield service
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_each_stream_is_kept_to_its_own_limits_at_intervals():
    vault = Vault()
    async with vault.running():
        await asyncio.sleep(601)
        everything = ["pi-a", "pi-b", "_train.x", "gone"]
        assert vault.store.asked == [
            ("fashion", Limits(86_400.0, None), everything),
            ("birds", Limits(None, 1 << 30), everything),
        ]
        await asyncio.sleep(600)
        assert len(vault.store.asked) == 4
    assert vault.health.history == []


async def test_one_of_several_nodes_looks_after_its_own_sources():
    """Imports, and sources of edges that are gone, are whose node answers the first requests."""
    vault = Vault()
    async with vault.running():
        vault.share.replace(frozenset({TopicPartition("topic-b")}))
        await asyncio.sleep(601)
        vault.share.replace(frozenset({REQUESTS}))
        await asyncio.sleep(600)
    assert [ours for stream, _, ours in vault.store.asked if stream == "fashion"] == [["pi-b"], ["_train.x", "gone"]]


async def test_what_speaks_against_it_is_told_with_what_to_do_until_it_does_no_more():
    vault = Vault()
    vault.store.steps = [
        Spared("fashion", "", "its oldest file is old; run `edged archive retain` once"),
        Deleted("fashion", "pi-a", 4, 4, 400),
    ]
    async with vault.running() as service:
        await asyncio.sleep(601)
        told = "fashion: its oldest file is old; run `edged archive retain` once"
        assert vault.health.reasons["archive_retention"].startswith(told)
        assert service.progress().steps == 4
        vault.store.failure = ArchiveUnavailable("the archive is away")
        await asyncio.sleep(600)
        assert vault.health.reasons["archive_retention"] == "the archive is away; the archive is away"
        vault.store.failure, vault.store.steps = None, ()
        await asyncio.sleep(600)
    assert vault.health.reasons == {}
