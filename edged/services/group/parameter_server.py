"""The parameter server of one job: reads all members' gradients and writes each step's update, once for all.

Covers folding the gradients' log, writing the group's log, and the deadline for gradients. It holds no weights, and no
state but its own log: after a restart it resumes after its last complete update, and what it writes again has no
effect. If that update was deleted, it resumes with the members, from their published checkpoint. See also:
`domain.group.update_log` for what the members do with an update.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace

from edged.aio import run_in_worker
from edged.domain.group import compression as compress
from edged.domain.group import formats, gradient_log, state_json, update_log
from edged.domain.group import records as group_records
from edged.domain.group.formats import Announcement
from edged.domain.group.records import NEWEST_FORMAT, Begin, Close, Join, Leave, Part, Tested, Update
from edged.domain.group.state import (
    Abandoned,
    Action,
    Begun,
    Closed,
    CountedTest,
    Diverged,
    Late,
    Rejected,
    Rules,
    State,
)
from edged.domain.topology import MAX_MEMBERS, Compression
from edged.domain.training.state import TrainState
from edged.errors import FormatError, LogGap
from edged.log import Throttle, bind, logger
from edged.ports import Log, Message, Progress, Record, Statistics, TopicPartition
from edged.reading import read_to_end
from edged.services.group.checkpoints.reader import CheckpointReader, GroupTopics, read_checkpoints
from edged.services.group.log.deadline import FIRST_DEADLINE_S, MIN_DEADLINE_S, Deadline
from edged.services.group.log.group_log import RECORDS_PER_POLL
from edged.services.group.log.ordered_reader import read_in_order

_POLL_S = 1.0
_TICK_S = 1e-3
"""A deadline this near has passed: a poll for less may take no time at all, and the loop would spin."""

_SMALL_BYTES = 4096
"""A larger record is no Join."""


class ParameterServer:
    """Combines the gradients of one job. Used by one task.

    `gradients`: the topic that it reads; it alone writes the group's log, `topics.log`. Updates are sent as float32 if
    `compression`, the members', is none, and as float16 otherwise.
    """

    def __init__(
        self,
        log: Log,
        rules: Rules,
        topics: GroupTopics,
        *,
        gradients: str,
        compression: Compression,
        job: str = "",
        first_deadline_s: float = FIRST_DEADLINE_S,
        min_deadline_s: float = MIN_DEADLINE_S,
    ) -> None:
        self._log = log
        self._rules = rules
        self._topics = topics
        self._gradients = TopicPartition(gradients)
        self._train = TopicPartition(topics.log)
        self._compression: Compression = "none" if compression == "none" else "fp16"
        self._job = job
        self._state = State()
        self._deadline = Deadline(first_deadline_s, min_deadline_s)
        self._throttle = Throttle(max_kinds=64)  # of edges, by names that anybody may have made up
        self._steps = 0
        self._closes_at: float | None = None
        self._step_began_at = 0.0
        self._polled_at = 0.0

    async def run(self) -> None:
        """Serve until cancelled; whatever it was doing is done again after the next start."""
        if self._job:
            bind(job=self._job)
        self._state = await self._restore()
        while True:
            try:
                await self._serve()
            except LogGap as gap:
                topic = self._gradients.topic
                logger().error("exchange.log_lost", topic=topic, wanted_offset=gap.expected, first_offset=gap.found)

    async def _serve(self) -> None:
        """Serve from the state's offset on, or from the log's low watermark: nobody else folds what was deleted.

        Raises LogGap when more is deleted.
        """
        low, _stable, high = (await self._log.watermarks([self._gradients]))[self._gradients]
        if not low <= self._state.next_offset <= high:
            self._state = replace(self._state, next_offset=low)
        logger().info("exchange.serving", step=self._state.step, offset=self._state.next_offset)
        self._step_began_at = asyncio.get_running_loop().time()
        self._closes_at = None
        async with read_in_order(self._log, self._gradients, self._state.next_offset) as reader:
            while True:
                records = await reader.poll(max_records=RECORDS_PER_POLL, timeout_s=self._timeout_s())
                if records:
                    self._polled_at = asyncio.get_running_loop().time()
                    await self._resume_if_accepted(records)
                    step = self._state.step
                    messages = await run_in_worker(self._take, records)
                    await self._send(messages, has_closed=self._state.step > step)
                await self._close_if_due()

    def progress(self) -> Progress:
        """Records taken; always idle, for members may be away."""
        return Progress(self._steps, True)

    def statistics(self) -> Statistics:
        return Statistics()

    async def _resume_if_accepted(self, records: Sequence[Record]) -> None:
        """If one of these is the Join that accepts an offer, resume from the offered state, as all members do."""
        if joins := [join for record in records if (join := _join(record)) is not None]:
            async with self._checkpoints() as checkpoints:
                offered = await checkpoints.joined_by(joins)
            if offered is not None:
                group = _group(offered)
                _log_adopted(group)
                self._state = replace(group, next_offset=self._state.next_offset)

    async def _restore(self) -> State:
        """The last complete update's state, or that of a published checkpoint after it; else the beginning."""
        low, _stable, high = (await self._log.watermarks([self._train]))[self._train]
        if high == 0:  # no published checkpoint can name an offset in it
            return State(next_offset=await self._first_offset())
        # After the parts of the last two updates there can be a Begin, and a few records of each member an epoch; but
        # while no step is made, members that restart over and over may write any number of records.
        max_parts = -(-compress.max_bytes(self._rules.num_parameters) // group_records.MAX_CHUNK_BYTES)
        num_records = 2 * max_parts + 4 * MAX_MEMBERS
        while (newest := await self._newest(max(low, high - num_records))) is None and high - num_records > low:
            num_records *= 4
        updated, offset = newest or (State(), -1)
        async with self._checkpoints() as checkpoints:
            best = await checkpoints.best()
        if best is None:
            return updated
        published = _group(best)
        if published.next_offset <= offset or published.step == updated.step:
            return updated
        _log_adopted(published)
        return replace(published, next_offset=0)  # an offset in the members' log is none in the gradients'

    def _checkpoints(self) -> AbstractAsyncContextManager[CheckpointReader]:
        return read_checkpoints(self._log, self._topics, self._rules.num_parameters)

    async def _first_offset(self) -> int:
        """Where to begin reading gradients while the server's own log was never written to.

        After them all, if they are of an epoch: that began in another log, and the members resume elsewhere.
        """
        low, _stable, high = (await self._log.watermarks([self._gradients]))[self._gradients]
        async with (
            self._log.reader({self._gradients: low}) as reader,
            aclosing(read_to_end(self._log, reader, self._gradients, max_records=RECORDS_PER_POLL)) as reading,
        ):
            async for records in reading:
                if any(isinstance(_decoded(record), Begin | Part | Tested) for record in records):
                    return high
        return low

    async def _newest(self, start: int) -> tuple[State, int] | None:
        """The state in the last complete update from offset `start` on, and the update's last offset; None if none."""
        parts: dict[int, set[int]] = {}
        newest: tuple[State, int] | None = None
        async with (
            self._log.reader({self._train: start}, own=True) as reader,
            aclosing(read_to_end(self._log, reader, self._train, max_records=RECORDS_PER_POLL, own=True)) as reading,
        ):
            async for records in reading:
                for record in records:
                    update = _decoded(record)
                    if not isinstance(update, Update):
                        continue
                    seen = parts.setdefault(update.step, set())
                    seen.add(update.part)
                    if len(seen) == update.parts:
                        newest = await run_in_worker(state_json.from_json, update.state), record.offset
        return newest

    def _take(self, records: Sequence[Record]) -> list[Message]:
        """Fold them; returns what to write in response. Runs in a worker thread."""
        written: list[Message] = []
        for each in records:
            self._steps += 1
            state = self._state.skip_to(each.offset)
            self._state, actions = gradient_log.fold_blob(
                gradient_log.fold, self._rules, state, each.value, each.offset
            )
            answers = [record for action in actions for record in self._consequences(action, each)]
            if not any(isinstance(action, Rejected) for action in actions):
                record = group_records.decode(each.value)
                answers += [record] if isinstance(record, Join | Leave) else []
            written += (self._message(record, each) for record in answers)
        return written

    def _message(self, record: group_records.Record, cause: Record) -> Message:
        """What a member has written is passed on with what it can do, in a format that the server knows, too."""
        can = Announcement(NEWEST_FORMAT)
        if not isinstance(record, Update):
            member = formats.announced(cause.headers)
            can = member._replace(format=min(can.format, member.format))
        blob = group_records.encode(record, formats.of_record(record, self._state.begin))
        return Message(self._train.topic, blob, headers=formats.headers(can))

    def _consequences(self, action: Action, record: Record) -> Iterator[group_records.Record]:
        match action:
            case Begun(begin):
                yield begin
            case CountedTest(tested):
                yield tested
            case Closed():
                chunks: list[bytes] = []
                if action.mean is not None:
                    chunks = compress.split(compress.compress(action.mean, self._compression, top_k=1.0))
                yield from update_log.updates(action, self._state, chunks)
            case Rejected(edge, reason):
                self._reject(edge, reason, record.offset)
            case Late() | Abandoned() | Diverged():
                pass  # they show in the state that the next update carries

    def _reject(self, edge: str, reason: str, offset: int) -> None:
        if (suppressed := self._throttle.pass_on(edge, self._polled_at)) is not None:
            who = {"edge": edge} if edge else {}
            topic = self._gradients.topic
            logger().warning(
                "exchange.rejected", **who, topic=topic, offset=offset, reason=reason, suppressed=suppressed
            )

    async def _send(self, messages: Sequence[Message], *, has_closed: bool) -> None:
        if messages:
            await self._log.append(messages)
        if has_closed:
            now = asyncio.get_running_loop().time()
            self._deadline.record(now - self._step_began_at)
            self._step_began_at, self._closes_at = now, None

    # the deadline

    def _timeout_s(self) -> float:
        if self._closes_at is None:
            return _POLL_S
        return max(0.0, min(_POLL_S, self._closes_at - asyncio.get_running_loop().time()))

    async def _close_if_due(self) -> None:
        """Close a step whose gradients have not all come by the deadline, counted from its first gradient."""
        now = asyncio.get_running_loop().time()
        if not self._state.gradients:
            self._closes_at = None
        elif self._closes_at is None:
            self._closes_at = now + self._deadline.seconds(self._state)
        elif now >= self._closes_at - _TICK_S:
            close = Close(self._state.step, self._rules.server)
            blob = group_records.encode(close, formats.of_record(close, self._state.begin))
            await self._log.append(
                [Message(self._gradients.topic, blob, headers=formats.headers(Announcement(NEWEST_FORMAT)))]
            )
            self._closes_at = now + self._deadline.seconds(self._state)


def _group(checkpoint: TrainState) -> State:
    return state_json.from_json(checkpoint.exchange)


def _log_adopted(group: State) -> None:
    epoch = 0 if group.begin is None else group.begin.epoch
    logger().info("exchange.adopted", generation=group.step, epoch=epoch, offset=group.next_offset)


def _join(record: Record) -> Join | None:
    decoded = _decoded(record) if len(record.value) <= _SMALL_BYTES else None
    return decoded if isinstance(decoded, Join) else None


def _decoded(record: Record) -> group_records.Record | None:
    try:
        return group_records.decode(record.value)
    except FormatError:
        return None
