"""Checkpoints that go from member to member."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from edged.adapters.memory.log import MemoryLog
from edged.domain.group import records as exchange_records
from edged.domain.group import state_json
from edged.domain.group.records import Join, Part
from edged.domain.group.state import Member, State
from edged.domain.nn import param_vector
from edged.domain.nn.model import Division
from edged.domain.training import checkpoint
from edged.domain.training.state import Position, TrainState
from edged.ports import Message, TopicPartition
from edged.services.group.checkpoints.publisher import CheckpointPublisher
from edged.services.group.checkpoints.reader import GroupTopics
from tests.support.holes import delay

pytestmark = pytest.mark.looptime

CHECKPOINTS, TRAIN, JOB = "site.checkpoints.toy", "site.train.toy", "ab" * 32


def state(epoch: int, *, size: int = 5, offset: int = 3, fill: float | None = None) -> TrainState:
    params = {"dense.kernel": np.full((size, 2), epoch if fill is None else fill, np.float32)}
    slots = {"velocity": {"dense.kernel": np.zeros((size, 2), np.float32)}}
    place = state_json.to_json(State(next_offset=offset))
    return TrainState(params, slots, JOB, Division(1, 4), Position(epoch, step=10 * epoch), exchange=place)


@pytest.fixture
async def log(log_lines) -> MemoryLog:
    log = MemoryLog()
    await log.append([Message(TRAIN, b"x")] * 5)
    return log


def announcements(log: MemoryLog) -> CheckpointPublisher:
    return CheckpointPublisher(log, GroupTopics(CHECKPOINTS, TRAIN, JOB, ("pi-a", "pi-b")))


async def found(log: MemoryLog, like: TrainState | None = None, **options) -> int | None:
    newest = await announcements(log).newest(like or state(0), **options)
    return None if newest is None else newest.position.epoch


async def test_nothing_is_found_where_nothing_was_announced(log):
    assert await found(log) is None


async def test_the_newest_is_found_to_the_bit(log):
    for epoch in (1, 2, 3):
        await announcements(log).announce(state(epoch))
    newest = await announcements(log).newest(state(0))
    assert newest is not None
    assert checkpoint.encode(newest) == checkpoint.encode(state(3))


async def test_large_ones_go_in_pieces_below_what_a_broker_takes(log):
    large = state(1, size=200_000)
    await announcements(log).announce(large)
    records = log.records(CHECKPOINTS)
    assert len(records) > 5
    assert max(len(record.value) for record in records) <= 512 * 1024
    newest = await announcements(log).newest(large)
    assert newest is not None
    assert param_vector.digest(newest.params) == param_vector.digest(large.params)


async def test_while_one_is_being_written_the_one_before_it_is_found(log):
    await announcements(log).announce(state(1))
    whole = MemoryLog()
    await announcements(whole).announce(state(2))
    for record in whole.records(CHECKPOINTS)[:-1]:
        await log.append([Message(CHECKPOINTS, record.value, record.key)])
    assert await found(log) == 1


async def test_a_torn_or_forged_one_is_passed_over(log):
    await announcements(log).announce(state(1))
    await announcements(log).announce(state(2))
    junk = [(b"0/0", b"junk"), (b"head/1", b"{"), (b"head/7", b"{}"), (b"9/9", b""), (b"\xff/\xff", b""), (None, b"x")]
    await log.append([Message(CHECKPOINTS, value, key) for key, value in junk])
    assert await found(log) == 1


@pytest.mark.parametrize(
    "other",
    [
        replace(state(5), job="cd" * 32),
        state(5, size=6),
        state(5, offset=99),
        state(5, fill=np.nan),
        replace(state(5), exchange=""),
    ],
    ids=["another job", "another model", "behind the log's end", "not finite", "no place in the log"],
)
async def test_what_cannot_be_gone_on_from_is_passed_over(log, other):
    await announcements(log).announce(state(4))
    await announcements(log).announce(other)
    assert await found(log) == 4


async def test_one_that_names_a_member_that_the_topology_has_not_is_refused(log, log_lines):
    for epoch, edge in ((4, "pi-b"), (5, "pi-z")):
        place = State(members={"pi-a": Member(), edge: Member()}, next_offset=3)
        await announcements(log).announce(replace(state(epoch), exchange=state_json.to_json(place)))
    assert await found(log) == 4
    assert [line["reason"] for line in log_lines("exchange.rejected")] == ["names pi-z, no edge of the topology"]


def part(step: int) -> Message:
    record = Part("pi-a", step, "00" * 4, 0, 1, 1, 0.5, 1, 0.0, b"x")
    return Message(TRAIN, exchange_records.encode(record))


def join(edge: str, epoch: int = 0) -> Join:
    """With the steps of `state(epoch)`."""
    return Join(edge, JOB, 10 * epoch, "0" * 64)


def joined(edge: str, epoch: int = 0) -> Message:
    return Message(TRAIN, exchange_records.encode(join(edge, epoch)))


async def place_of_newest(log: MemoryLog) -> tuple[int, int] | None:
    """Its epoch and offset."""
    newest = await announcements(log).newest(state(0))
    return None if newest is None else (newest.position.epoch, state_json.from_json(newest.exchange).next_offset)


async def test_one_whose_place_was_deleted_is_of_no_use(log):
    await announcements(log).announce(state(1))
    log.truncate(TopicPartition(TRAIN), 4)
    assert await found(log) is None


async def test_one_at_the_end_of_a_log_of_which_all_was_deleted_is_of_no_use(log):
    await announcements(log).announce(state(1, offset=5))
    assert await found(log) == 1
    log.truncate(TopicPartition(TRAIN), 5)
    assert await found(log) is None


async def test_an_offer_is_there_once_its_founder_has_joined(log):
    await announcements(log).announce(state(1))
    log.truncate(TopicPartition(TRAIN), 5)
    await announcements(log).offer(state(2), "pi-a", 5)
    await log.append([joined("pi-b")])
    assert await place_of_newest(log) is None
    await log.append([joined("pi-a", 2), part(20)])
    assert await place_of_newest(log) == (2, 5)


async def test_an_offer_is_void_where_an_epoch_goes_on_before_its_founder_has_joined(log):
    await announcements(log).offer(state(2), "pi-a", 5)
    assert await announcements(log).is_offered(state(0))
    await log.append([part(20), joined("pi-a", 2)])
    assert await place_of_newest(log) is None
    assert not await announcements(log).is_offered(state(0))


@pytest.mark.parametrize("first", ["pi-a", "pi-b"])
async def test_of_two_offers_that_counts_whose_founder_joined_first(log, first):
    await announcements(log).offer(state(1), "pi-a", 5)
    await announcements(log).offer(state(2), "pi-b", 5)
    epochs = {"pi-a": 1, "pi-b": 2}
    await log.append([joined(edge, epochs[edge]) for edge in (first, "pi-b", "pi-a")])
    assert await place_of_newest(log) == (epochs[first], 5)


async def test_an_offer_that_was_taken_counts_though_it_is_torn_by_a_later_one(log):
    """Whoever comes then waits for what the group announces next, rather than go on from what it does not."""
    await announcements(log).offer(state(1), "pi-a", 5)
    await log.append([joined("pi-a", 1)])
    await log.append([Message(CHECKPOINTS, b"another's", b"1/0")])
    await announcements(log).offer(state(2), "pi-b", 6)
    await log.append([joined("pi-b", 2), part(10)])
    assert await place_of_newest(log) is None
    await announcements(log).announce(state(3, offset=8))
    assert await place_of_newest(log) == (3, 8)


async def test_what_a_group_announces_comes_before_the_offer_that_it_began_with(log):
    await announcements(log).offer(state(4), "pi-a", 5)
    await log.append([joined("pi-a", 4), part(40)])
    await announcements(log).announce(state(5, offset=7))
    assert await place_of_newest(log) == (5, 7)


async def test_what_was_announced_before_an_offer_that_was_taken_is_of_another_log(log):
    await announcements(log).announce(state(5, offset=7))
    await announcements(log).offer(state(4), "pi-a", 5)
    await log.append([joined("pi-a", 4), part(40)])
    assert await place_of_newest(log) == (4, 5)


async def test_a_parameter_server_finds_what_members_find(log):
    await announcements(log).announce(state(1))
    group = await announcements(log).newest_group(num_parameters=10)
    assert group == state_json.from_json(state(1).exchange)


async def test_a_parameter_server_goes_on_from_an_offer_with_the_join_that_makes_it_count(log):
    await announcements(log).offer(state(1), "pi-a", 5)
    founds = join("pi-a", 1)
    assert await announcements(log).group_joined_by([join("pi-b"), join("pi-a")], num_parameters=10) is None
    assert await announcements(log).group_joined_by([join("pi-b"), founds], num_parameters=10) == State(next_offset=5)
    await log.append([joined("pi-a", 1)])
    assert await announcements(log).group_joined_by([founds], num_parameters=10) is None


async def test_older_ones_than_are_wanted_are_not_found(log):
    await announcements(log).announce(state(1))
    assert await found(log, at_least=11) is None
    assert await found(log, at_least=10) == 1


async def test_waiting_ends_with_the_first_that_is_new_enough(log):
    await announcements(log).announce(state(1))
    waiting = asyncio.create_task(announcements(log).wait(state(0), at_least=20))
    await asyncio.sleep(30)
    assert not waiting.done()
    await announcements(log).announce(state(2))
    assert (await waiting).position.epoch == 2


async def test_the_first_that_is_new_enough_is_found_though_others_follow_all_the_time(log):
    async def announce() -> None:
        for epoch in range(1, 100):
            await announcements(log).announce(state(epoch))
            await asyncio.sleep(4)

    announcing = asyncio.create_task(announce())
    async with asyncio.timeout(60):
        assert (await announcements(log).wait(state(0), at_least=20)).position.epoch == 2
    announcing.cancel()


@pytest.mark.parametrize("topic", [CHECKPOINTS, TRAIN])
async def test_over_a_slow_link_the_same_is_found(log, topic):
    await announcements(log).offer(state(1), "pi-a", 5)
    await log.append([joined("pi-a", 1), part(10)])
    delay(log, topic, polls=3)
    assert await place_of_newest(log) == (1, 5)
    assert await announcements(log).group_joined_by([join("pi-a", 1)], num_parameters=10) is None
