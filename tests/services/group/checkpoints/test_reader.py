"""Which of the checkpoints in a group's topic are found."""

from dataclasses import replace

import numpy as np
import pytest

from edged.adapters.memory.log import MemoryLog
from edged.domain.group import records as exchange_records
from edged.domain.group import state_json
from edged.domain.group.records import Join, Part
from edged.domain.group.state import Member, State
from edged.domain.training import checkpoint
from edged.ports import Message, TopicPartition
from tests.support.group_checkpoints import CHECKPOINTS, JOB, TRAIN, best, publisher, reading, state
from tests.support.holes import delay

pytestmark = pytest.mark.looptime


async def best_epoch(log: MemoryLog, min_step: int = 0) -> int | None:
    newest = await best(log, min_step=min_step)
    return None if newest is None else newest.position.epoch


async def best_epoch_and_offset(log: MemoryLog) -> tuple[int, int] | None:
    newest = await best(log)
    return None if newest is None else (newest.position.epoch, state_json.from_json(newest.exchange).next_offset)


async def can_be_accepted(log: MemoryLog) -> bool:
    """Whether there is an offer that can."""
    async with reading(log, state(0)) as checkpoints:
        return bool((await checkpoints.offers()).pending)


async def joined_by(log: MemoryLog, *joins: Join) -> State | None:
    """What a parameter server resumes from when these Joins come next."""
    async with reading(log, None) as checkpoints:
        offered = await checkpoints.joined_by(joins)
    return None if offered is None else state_json.from_json(offered.exchange)


async def test_an_empty_topic_has_no_checkpoint(log):
    assert await best_epoch(log) is None


async def test_the_newest_checkpoint_is_found_bit_for_bit(log):
    for epoch in (1, 2, 3):
        await publisher(log).announce(state(epoch))
    newest = await best(log)
    assert newest is not None
    assert checkpoint.encode(newest) == checkpoint.encode(state(3))


async def test_the_previous_checkpoint_is_found_while_the_next_is_being_written(log):
    await publisher(log).announce(state(1))
    whole = MemoryLog()
    await publisher(whole).announce(state(2))
    for record in whole.records(CHECKPOINTS)[:-1]:
        await log.append([Message(CHECKPOINTS, record.value, record.key)])
    assert await best_epoch(log) == 1


async def test_torn_and_forged_records_are_skipped(log):
    await publisher(log).announce(state(1))
    await publisher(log).announce(state(2))
    junk = [(b"0/0", b"junk"), (b"head/1", b"{"), (b"head/7", b"{}"), (b"9/9", b""), (b"\xff/\xff", b""), (None, b"x")]
    await log.append([Message(CHECKPOINTS, value, key) for key, value in junk])
    assert await best_epoch(log) == 1


@pytest.mark.parametrize(
    "other",
    [
        replace(state(5), job="cd" * 32),
        state(5, size=6),
        state(5, offset=99),
        state(5, fill=np.nan),
        replace(state(5), exchange=""),
    ],
    ids=["another job", "another model", "after the log's end", "not finite", "no offset in the log"],
)
async def test_a_checkpoint_that_cannot_be_resumed_from_is_skipped(log, other):
    await publisher(log).announce(state(4))
    await publisher(log).announce(other)
    assert await best_epoch(log) == 4


async def test_a_checkpoint_that_names_a_member_outside_the_topology_is_rejected(log, log_lines):
    for epoch, edge in ((4, "pi-b"), (5, "pi-z")):
        group = State(members={"pi-a": Member(), edge: Member()}, next_offset=3)
        await publisher(log).announce(replace(state(epoch), exchange=state_json.to_json(group)))
    assert await best_epoch(log) == 4
    assert [line["reason"] for line in log_lines("exchange.rejected")] == ["names pi-z, no edge of the topology"]


def part(step: int) -> Message:
    record = Part("pi-a", step, "00" * 4, 0, 1, 1, 0.5, 1, 0.0, b"x")
    return Message(TRAIN, exchange_records.encode(record))


def join(edge: str, epoch: int = 0) -> Join:
    """With the steps of `state(epoch)`."""
    return Join(edge, JOB, 10 * epoch, "0" * 64)


def joined(edge: str, epoch: int = 0) -> Message:
    return Message(TRAIN, exchange_records.encode(join(edge, epoch)))


async def test_a_checkpoint_whose_offset_was_deleted_is_skipped(log):
    await publisher(log).announce(state(1))
    log.truncate(TopicPartition(TRAIN), 4)
    assert await best_epoch(log) is None


async def test_a_checkpoint_at_the_end_of_a_fully_deleted_log_is_skipped(log):
    await publisher(log).announce(state(1, offset=5))
    assert await best_epoch(log) == 1
    log.truncate(TopicPartition(TRAIN), 5)
    assert await best_epoch(log) is None


async def test_an_offer_counts_once_its_proposer_has_joined(log):
    await publisher(log).announce(state(1))
    log.truncate(TopicPartition(TRAIN), 5)
    await publisher(log).offer(state(2), "pi-a", 5)
    await log.append([joined("pi-b")])
    assert await best_epoch_and_offset(log) is None
    await log.append([joined("pi-a", 2), part(20)])
    assert await best_epoch_and_offset(log) == (2, 5)


async def test_an_offer_is_void_when_an_epoch_continues_before_its_proposer_has_joined(log):
    await publisher(log).offer(state(2), "pi-a", 5)
    assert await can_be_accepted(log)
    await log.append([part(20), joined("pi-a", 2)])
    assert await best_epoch_and_offset(log) is None
    assert not await can_be_accepted(log)


@pytest.mark.parametrize("first", ["pi-a", "pi-b"])
async def test_the_first_proposer_to_join_wins(log, first):
    await publisher(log).offer(state(1), "pi-a", 5)
    await publisher(log).offer(state(2), "pi-b", 5)
    epochs = {"pi-a": 1, "pi-b": 2}
    await log.append([joined(edge, epochs[edge]) for edge in (first, "pi-b", "pi-a")])
    assert await best_epoch_and_offset(log) == (epochs[first], 5)


async def test_an_accepted_offer_counts_even_when_a_later_one_has_torn_it(log):
    """A member that starts then waits for the group's next checkpoint, rather than resume from another state."""
    await publisher(log).offer(state(1), "pi-a", 5)
    await log.append([joined("pi-a", 1)])
    await log.append([Message(CHECKPOINTS, b"another's", b"1/0")])
    await publisher(log).offer(state(2), "pi-b", 6)
    await log.append([joined("pi-b", 2), part(10)])
    assert await best_epoch_and_offset(log) is None
    await publisher(log).announce(state(3, offset=8))
    assert await best_epoch_and_offset(log) == (3, 8)


async def test_a_groups_checkpoint_is_preferred_to_the_offer_it_resumed_from(log):
    await publisher(log).offer(state(4), "pi-a", 5)
    await log.append([joined("pi-a", 4), part(40)])
    await publisher(log).announce(state(5, offset=7))
    assert await best_epoch_and_offset(log) == (5, 7)


async def test_a_checkpoint_older_than_the_accepted_offer_belongs_to_another_log(log):
    await publisher(log).announce(state(5, offset=7))
    await publisher(log).offer(state(4), "pi-a", 5)
    await log.append([joined("pi-a", 4), part(40)])
    assert await best_epoch_and_offset(log) == (4, 5)


async def test_a_parameter_server_finds_the_same_checkpoint_as_members(log):
    await publisher(log).announce(state(1))
    async with reading(log, None) as checkpoints:
        newest = await checkpoints.best()
    assert newest is not None
    assert newest.exchange == state(1).exchange


async def test_a_parameter_server_resumes_from_an_offer_with_the_join_that_accepts_it(log):
    await publisher(log).offer(state(1), "pi-a", 5)
    accepting = join("pi-a", 1)
    assert await joined_by(log, join("pi-b"), join("pi-a")) is None
    assert await joined_by(log, join("pi-b"), accepting) == State(next_offset=5)
    await log.append([joined("pi-a", 1)])
    assert await joined_by(log, accepting) is None


async def test_checkpoints_before_the_minimum_step_are_skipped(log):
    await publisher(log).announce(state(1))
    assert await best_epoch(log, min_step=11) is None
    assert await best_epoch(log, min_step=10) == 1


@pytest.mark.parametrize("topic", [CHECKPOINTS, TRAIN])
async def test_the_same_checkpoint_is_found_over_a_slow_link(log, topic):
    await publisher(log).offer(state(1), "pi-a", 5)
    await log.append([joined("pi-a", 1), part(10)])
    delay(log, topic, polls=3)
    assert await best_epoch_and_offset(log) == (1, 5)
    assert await joined_by(log, join("pi-a", 1)) is None
