"""A checkpoint on its way into a group's topic."""

import pytest

from edged.domain.nn import param_vector
from tests.support.group_checkpoints import CHECKPOINTS, best, publisher, state

pytestmark = pytest.mark.looptime


async def test_a_large_checkpoint_is_split_into_records_that_a_broker_takes(log):
    large = state(1, size=200_000)
    await publisher(log).announce(large)
    records = log.records(CHECKPOINTS)
    assert len(records) > 5
    assert max(len(record.value) for record in records) <= 512 * 1024
    newest = await best(log, like=large)
    assert newest is not None
    assert param_vector.digest(newest.params) == param_vector.digest(large.params)


async def test_two_slots_are_used_in_turn_and_a_head_is_written_last(log):
    for epoch in (1, 2, 3):
        await publisher(log).announce(state(epoch))
    keys = [record.key for record in log.records(CHECKPOINTS)]
    assert keys == [b"1/0", b"head/1", b"0/0", b"head/0", b"1/0", b"head/1"]


async def test_an_offers_head_has_a_key_of_its_proposers_own(log):
    await publisher(log).offer(state(1), "pi-b", 5)
    assert [record.key for record in log.records(CHECKPOINTS)] == [b"1/0", b"offer/pi-b"]
