"""A member's log with a hole in it: for a moment, because the broker was not done, or for good."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from edged.adapters.memory import MemoryLog, MemoryReader
from edged.domain import compress, exchange_records, gradient_log
from edged.domain.exchange_records import Join
from edged.domain.gradient_log import Rules, State
from edged.ports import Message, Record
from edged.services.exchange import Exchange, GroupAddress

TOPIC = "site.train.toy"
EDGES = ("pi-a", "pi-b", "pi-c")
JOB = "0" * 64


class HidingLog(MemoryLog):
    """A log whose readers do not see the record at offset 1 in their first `times` looks at what is behind it."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.times = times

    @asynccontextmanager
    async def reader(self, positions, *, group=None) -> AsyncIterator[MemoryReader]:
        async with super().reader(positions, group=group) as reader:
            poll = reader.poll

            async def hiding(*, max_records: int, timeout_s: float) -> list[Record]:
                records = await poll(max_records=max_records, timeout_s=timeout_s)
                if self.times > 0 and any(record.offset == 1 for record in records):
                    self.times -= 1
                    return [record for record in records if record.offset != 1]
                return records

            reader.poll = hiding  # type: ignore[method-assign]
            yield reader


async def members_after(log: MemoryLog) -> tuple[str, ...]:
    """Who has joined, to a member that reads the joins of all."""
    await log.append([Message(TOPIC, exchange_records.encode(Join(edge, JOB, 0, "0" * 64))) for edge in EDGES])
    rules = Rules(frozenset(EDGES), JOB, 1, lambda blob: compress.decompress(blob, 1))
    exchange = Exchange(log, GroupAddress("pi-a", EDGES, TOPIC, TOPIC), rules, gradient_log.fold, lambda *_: None)
    async with exchange.open(State()):
        while exchange.state.next_offset < len(EDGES):
            await exchange.poll(1.0)
    return tuple(sorted(exchange.state.members))


@pytest.mark.looptime
async def test_a_record_that_is_hidden_for_a_moment_is_taken_in_its_place():
    assert await members_after(HidingLog(times=3)) == EDGES


@pytest.mark.looptime
async def test_a_record_that_nobody_can_ever_read_is_passed_over():
    assert await members_after(HidingLog(times=float("inf"))) == ("pi-a", "pi-c")
