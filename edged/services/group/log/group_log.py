"""One member's hold on its group's log: reading and folding it, and writing to it.

Covers the position in the log, what of a step is this member's, and when to wait no longer. What the log means is
domain.gradient_log's and update_log's subject, what to train `group_train`'s. There is no task behind it: whoever
polls moves it on.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from edged.aio import run_in_worker
from edged.domain.group import compression, gradient_log, membership, recovery
from edged.domain.group import records as exchange_records
from edged.domain.group.records import Begin, Close, Contribution, Join, Leave, Part, Tested
from edged.domain.group.state import Action, Fold, Late, Rejected, Rules, State
from edged.errors import LogGap
from edged.log import Throttle, logger
from edged.ports import Log, Message, Record, TopicPartition
from edged.services.group.log.deadline import Deadline
from edged.services.group.log.ordered_reader import Gapless, gapless

RECORDS_PER_POLL = 8
"""4 MiB of gradients, so that a stop need not wait long for what is being folded."""


@dataclass(frozen=True, slots=True)
class GroupAddress:
    """Who a member is, and where its group's records go.

    `reads`: the topic that the weights are a fold over; `writes`: where the member's own records go, the same topic
    unless a parameter server stands between.
    """

    edge: str
    edges: tuple[str, ...]
    reads: str
    writes: str


@dataclass(slots=True)
class Traffic:
    """Sums since the group's epoch began, or since this member began to follow it.

    Of the group, as far as its log was folded: `steps`, `contributions`, `missed`. `computed`: steps that this member
    computed a gradient for, in `step_s`; `waited_s`: for the others.
    """

    num_bytes: int = 0
    late: int = 0
    missed: int = 0
    contributions: int = 0
    step_s: float = 0.0
    waited_s: float = 0.0
    steps: int = 0
    computed: int = 0


class GroupLog:
    """The log of one group, as one of its members sees it. Used by one task, inside `open()`.

    `apply` is told every action in the log's order, with the state behind it; it runs in a worker thread, one at a
    time; if it raises, the poll does, and the record counts as not taken.
    """

    def __init__(
        self,
        log: Log,
        address: GroupAddress,
        rules: Rules,
        fold: Fold,
        apply: Callable[[State, Action], None],
    ) -> None:
        self._log = log
        self.address = address
        self._rules = rules
        self._fold = fold
        self._apply = apply
        self._reads = TopicPartition(address.reads)
        self._reader: Gapless | None = None
        self.throttle = Throttle()
        self.deadline = Deadline()
        self.state = State()
        self.boundary = State()
        """The state behind the last step or Begin: what a checkpoint of the present weights names."""
        self.traffic = Traffic()
        self.catches_up = False
        """What is read is of the past: who was awaited then is no news."""
        self.parts_per_step = 1
        """Records that the member's last gradient had."""

    @asynccontextmanager
    async def open(self, boundary: State) -> AsyncIterator[None]:
        """Read on behind `boundary`. Waits for the log. Raises LogGap when it does not lead on from there."""
        low, high = (await self._log.watermarks([self._reads]))[self._reads]
        if not recovery.can_resume(boundary.next_offset, low, high):
            raise LogGap(boundary.next_offset, low)
        self.state = self.boundary = boundary
        async with gapless(self._log, self._reads, boundary.next_offset) as self._reader:
            yield

    async def end_offset(self) -> int:
        """The offset behind the log's last record now."""
        return (await self._log.watermarks([self._reads]))[self._reads].high

    @property
    def position(self) -> int:
        """The offset of the next record to take, if there is one."""
        assert self._reader is not None, "open() first"
        return self._reader.position

    @property
    def lag(self) -> int:
        """Records that are known to be there and were not taken yet."""
        assert self._reader is not None, "open() first"
        return self._reader.lag

    async def poll(self, timeout_s: float) -> bool:
        """Take what comes within `timeout_s`; whether anything did. Raises LogGap, and what `apply` raises."""
        assert self._reader is not None, "open() first"
        records = await self._reader.poll(max_records=RECORDS_PER_POLL, timeout_s=timeout_s)
        if records:
            await run_in_worker(self._take, records, asyncio.get_running_loop().time())
        return bool(records)

    def _take(self, records: Sequence[Record], now: float) -> None:
        for record in records:
            state = self.state.skip_to(record.offset)
            self.traffic.num_bytes += len(record.value)
            state, actions = gradient_log.fold_blob(self._fold, self._rules, state, record.value, record.offset)
            for action in actions:
                self._log_action(action, record.offset, now)
                self._apply(state, action)
            if not self.catches_up:
                _log_changes(self.state, state)
            self.state = state
            if state.is_between_steps:
                self.boundary = state

    def _log_action(self, action: Action, offset: int, now: float) -> None:
        match action:
            case Rejected(edge, reason):
                if (suppressed := self.throttle.pass_on("rejected", now)) is not None:
                    who = {"edge": edge} if edge else {}
                    logger().warning(
                        "exchange.rejected",
                        **who,
                        topic=self.address.reads,
                        offset=offset,
                        reason=reason,
                        suppressed=suppressed,
                    )
            case Late(edge, step):
                self.traffic.late += 1
                if (suppressed := self.throttle.pass_on("late", now)) is not None:
                    logger().info(
                        "exchange.late", edge=edge, step=step, present_step=self.state.step, suppressed=suppressed
                    )
            case _:
                pass

    # writing

    async def join(self, step: int, weights: str) -> None:
        """Take part from now on, with the weights of this digest behind `step` updates."""
        await self._send([Join(self.address.edge, self._rules.job, step, weights)])

    async def leave(self) -> None:
        await self._send([Leave(self.address.edge)])

    async def begin(
        self, epoch: int, shares: Mapping[str, float], ends: Mapping[str, int], steps: int, weights: str
    ) -> None:
        """Propose that the epoch begins."""
        await self._send([Begin(epoch, dict(shares), dict(ends), steps, weights, self.address.edge)])

    async def close(self, step: int) -> None:
        """Wait no longer for the step."""
        await self._send([Close(step, self.address.edge)])

    async def tested(self, epoch: int, num_samples: int, num_correct: int, loss: float, weights: str) -> None:
        await self._send([Tested(self.address.edge, epoch, num_samples, num_correct, loss, weights)])

    async def gradient(
        self, step: int, count: int, loss: float, num_correct: int, speed: float, blob: bytes, *, is_diverged: bool
    ) -> None:
        """Send a gradient of `step`: the mean over `count` samples, compressed; with none of them, that there are none.

        Cancelled: all of its parts, some, or none are in the log.
        """
        attempt = secrets.token_hex(4)
        chunks = compression.split(blob) if count else [b""]
        self.parts_per_step = max(self.parts_per_step, len(chunks))
        parts = [
            Part(self.address.edge, step, attempt, i, len(chunks), count, loss, num_correct, speed, chunk, is_diverged)
            for i, chunk in enumerate(chunks)
        ]
        await self._send(parts)

    async def _send(self, records: Sequence[exchange_records.Record]) -> None:
        messages = [Message(self.address.writes, exchange_records.encode(record)) for record in records]
        if self.address.writes != self.address.reads:
            self.traffic.num_bytes += sum(len(message.value) for message in messages)
        await self._log.append(messages)


def _log_changes(before: State, after: State) -> None:
    for edge, reason in membership.changes(before, after):
        epoch = after.begin.epoch if after.begin is not None else -1
        if not reason:
            logger().info("exchange.awaited", edge=edge, epoch=epoch, step=after.step)
        else:
            log = logger().warning if reason == membership.SILENT else logger().info
            log("exchange.absent", edge=edge, epoch=epoch, step=after.step, reason=reason)


def of_edge(contributions: Sequence[Contribution], edge: str) -> bool:
    """Whether the edge is among them."""
    return any(each.edge == edge for each in contributions)
