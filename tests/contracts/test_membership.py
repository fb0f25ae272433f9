"""What every `ports.Membership` does: the fake's, and Kafka's on the embedded broker and on Apache Kafka."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.domain.topology import Kafka
from edged.ports import Log, Membership, TopicPartition, TopicSpec

every_log = pytest.mark.parametrize("log", ["memory", "embedded_broker", "apache_kafka"], indirect=True)


@pytest.fixture
async def log(request: pytest.FixtureRequest) -> AsyncIterator[Log]:
    if request.param == "memory":
        yield MemoryLog()
        return
    kafka = Kafka((request.getfixturevalue(request.param).bootstrap,))
    async with KafkaLog(kafka, RecordingHealth(), deadline_s=1.0) as log:
        yield log


@pytest.fixture
def site() -> str:
    return f"garden-{uuid.uuid4()}"


class Group:
    """The members of a group, and a condition that is looked at whenever what one of them holds has changed."""

    def __init__(self, log: Log, site: str) -> None:
        self._log = log
        self._name = f"{site}.archive"
        self._changed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def member(self, *topics: str) -> AsyncIterator[Membership]:
        async with self._log.join(self._name, topics) as membership:
            following = asyncio.create_task(self._follow(membership))
            try:
                yield membership
            finally:
                following.cancel()
                await asyncio.wait([following])

    async def until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            await self._changed.wait()

    async def _follow(self, membership: Membership) -> None:
        held = membership.held
        while True:
            held = await membership.other_than(held)
            self._changed.set()
            self._changed = asyncio.Event()


@pytest.fixture
def group(log: Log, site: str) -> Group:
    return Group(log, site)


async def topics(log: Log, site: str, *partitions: int) -> list[str]:
    specs = [TopicSpec(f"{site}.{index}", number) for index, number in enumerate(partitions)]
    await log.ensure(specs)
    return [spec.name for spec in specs]


def all_of(names: list[str], *partitions: int) -> set[TopicPartition]:
    return {
        TopicPartition(name, number) for name, count in zip(names, partitions, strict=True) for number in range(count)
    }


@every_log
async def test_a_lone_member_holds_every_partition(log: Log, site: str, group: Group) -> None:
    names = await topics(log, site, 1, 3)

    async with group.member(*names) as north:
        assert not north.held
        await group.until(lambda: north.held == all_of(names, 1, 3))


@every_log
async def test_members_share_every_partition_and_who_stays_keeps_the_rest(log: Log, site: str, group: Group) -> None:
    names = await topics(log, site, 1, 1, 1, 1, 2)
    everything = all_of(names, 1, 1, 1, 1, 2)

    async with group.member(*names) as north:
        await group.until(lambda: north.held == everything)
        async with group.member(*names) as south:
            await group.until(lambda: bool(south.held) and north.held | south.held == everything)
            await group.until(lambda: not north.held & south.held)
            assert len(north.held) == len(south.held) == 3
            assert {each.topic for each in north.held} & {names[4]} == {names[4]} & {each.topic for each in south.held}
        await group.until(lambda: north.held == everything)


@every_log
async def test_a_member_shares_only_in_the_topics_that_it_names(log: Log, site: str, group: Group) -> None:
    names = await topics(log, site, 1, 1, 1, 1)

    async with group.member(*names) as north, group.member(names[0]) as south:
        await group.until(lambda: south.held == {TopicPartition(names[0])})
        await group.until(lambda: north.held == all_of(names[1:], 1, 1, 1))


@pytest.mark.parametrize("log", ["memory", "apache_kafka"], indirect=True)
async def test_topics_and_partitions_that_come_later_are_shared_as_well(
    log: Log, site: str, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edged.adapters.kafka.membership._TOPICS_S", 0.5)
    names = [f"{site}.0", f"{site}.1"]
    await log.ensure([TopicSpec(names[0])])

    async with group.member(*names) as north:
        await group.until(lambda: north.held == all_of(names[:1], 1))
        await log.ensure([TopicSpec(names[1], partitions=2)])
        await group.until(lambda: north.held == all_of(names, 1, 2))


@every_log
async def test_commits_in_the_name_of_another_group_are_taken(log: Log, site: str, group: Group) -> None:
    names = await topics(log, site, 1)
    partition = TopicPartition(names[0])

    async with group.member(*names) as north, log.reader({partition: 0}, group=f"{site}.archiver") as reader:
        await group.until(lambda: bool(north.held))
        await reader.commit({partition: reader.place(partition)})

    assert partition in await log.committed(f"{site}.archiver", [partition])
