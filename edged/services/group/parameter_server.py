"""The parameter server of one job: it reads all members' gradients and writes what they come to, once for all.

Covers folding the gradients' log, writing the group's log, and when to wait no longer for a gradient. What the members
make of it is domain.update_log's subject. It holds no weights, and keeps nothing but what its own log says: a restarted
one goes on behind its last whole update, and says again, to no effect, what it had said since. Where that was deleted,
it goes on with the members, from what they have announced.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace

from edged.aio import run_in_worker
from edged.domain.group import compression as compress
from edged.domain.group import gradient_log, state_json, update_log
from edged.domain.group import records as exchange_records
from edged.domain.group.records import Begin, Close, Join, Leave, Part, Tested, Update
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
from edged.errors import FormatError, LogGap
from edged.log import Throttle, bind, logger
from edged.ports import Log, Message, Progress, Record, Statistics, TopicPartition
from edged.services.group.checkpoints.publisher import CheckpointPublisher
from edged.services.group.log.deadline import Deadline
from edged.services.group.log.group_log import RECORDS_PER_POLL
from edged.services.group.log.ordered_reader import gapless

_POLL_S = 1.0
_TICK_S = 1e-3
"""A deadline that is so near has passed: a poll for less may take no time at all, again and again."""

_SMALL_BYTES = 4096
"""A larger record is no Join."""


class ParameterServer:
    """Combines the gradients of one job. Used by one task.

    `gradients`: the topic that it reads, `train`: the one that it alone writes. Updates are sent as float32 where
    `compression`, the members', is none, and as float16 otherwise.
    """

    def __init__(
        self,
        log: Log,
        rules: Rules,
        announcements: CheckpointPublisher,
        *,
        gradients: str,
        train: str,
        compression: Compression,
        job: str = "",
    ) -> None:
        self._log = log
        self._rules = rules
        self._announcements = announcements
        self._gradients = TopicPartition(gradients)
        self._train = TopicPartition(train)
        self._compression: Compression = "none" if compression == "none" else "fp16"
        self._job = job
        self._state = State()
        self._deadline = Deadline()
        self._throttle = Throttle()
        self._steps = 0
        self._closes_at: float | None = None
        self._step_began_at = 0.0
        self._polled_at = 0.0

    async def run(self) -> None:
        """Serve until cancelled; whatever it was doing is done again by the next start."""
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
        """From the state's place on, or where the log begins now: what was lost is lost for all, nobody else folds it.

        Raises LogGap when more is lost.
        """
        low, high = (await self._log.watermarks([self._gradients]))[self._gradients]
        if not low <= self._state.next_offset <= high:
            self._state = replace(self._state, next_offset=low)
        logger().info("exchange.serving", step=self._state.step, offset=self._state.next_offset)
        self._step_began_at = asyncio.get_running_loop().time()
        self._closes_at = None
        async with gapless(self._log, self._gradients, self._state.next_offset) as reader:
            while True:
                records = await reader.poll(max_records=RECORDS_PER_POLL, timeout_s=self._timeout_s())
                if records:
                    self._polled_at = asyncio.get_running_loop().time()
                    await self._go_over(records)
                    await self._send(await run_in_worker(self._take, records))
                await self._close_if_due()

    def progress(self) -> Progress:
        """Records taken; nothing to do is no reason to worry, for members may be away."""
        return Progress(self._steps, True)

    def statistics(self) -> Statistics:
        return Statistics()

    async def _go_over(self, records: Sequence[Record]) -> None:
        """Where one of these is the Join by which all go on from an offered state, do so, too."""
        joins = [join for record in records if (join := _join(record)) is not None]
        if joins and (found := await self._announcements.group_joined_by(joins, self._rules.num_parameters)):
            _log_adopted(found)
            self._state = replace(found, next_offset=self._state.next_offset)

    async def _restore(self) -> State:
        """What the last whole update says, or what is announced if that is behind it; else the beginning."""
        low, high = (await self._log.watermarks([self._train]))[self._train]
        if high == 0:  # what is announced has no place in it
            return State(next_offset=await self._beginning())
        # Behind the parts of the last two updates there can be a Begin, and what each member says once an epoch; but
        # while no step is made, members that start again and again may say any number of things.
        max_parts = -(-compress.max_bytes(self._rules.num_parameters) // exchange_records.MAX_CHUNK_BYTES)
        num_records = 2 * max_parts + 4 * MAX_MEMBERS
        while (found := await self._newest(max(low, high - num_records), high)) is None and high - num_records > low:
            num_records *= 4
        updated, offset = found or (State(), -1)
        announced = await self._announcements.newest_group(self._rules.num_parameters)
        if announced is None or announced.next_offset <= offset or announced.step == updated.step:
            return updated
        _log_adopted(announced)
        return replace(announced, next_offset=0)  # that of the members' log says nothing of the gradients'

    async def _beginning(self) -> int:
        """Where to begin with the gradients while the server's own log was never written to.

        Behind them all, if they are of an epoch: it was another log in which that began, and members go on elsewhere.
        """
        low, high = (await self._log.watermarks([self._gradients]))[self._gradients]
        async with self._log.reader({self._gradients: low}) as reader:
            while reader.position(self._gradients) < high:
                records = await reader.poll(max_records=RECORDS_PER_POLL, timeout_s=_POLL_S)
                if any(isinstance(_decoded(record), Begin | Part | Tested) for record in records):
                    return high
        return low

    async def _newest(self, at: int, high: int) -> tuple[State, int] | None:
        """What the last update says that is whole from the offset `at` on, and where it ends; None where none is."""
        parts: dict[int, set[int]] = {}
        found: tuple[State, int] | None = None
        async with self._log.reader({self._train: at}) as reader:
            while reader.position(self._train) < high:
                for record in await reader.poll(max_records=RECORDS_PER_POLL, timeout_s=_POLL_S):
                    update = _decoded(record)
                    if not isinstance(update, Update):
                        continue
                    seen = parts.setdefault(update.step, set())
                    seen.add(update.part)
                    if len(seen) == update.parts:
                        found = await run_in_worker(state_json.from_json, update.state), record.offset
        return found

    def _take(self, records: Sequence[Record]) -> list[exchange_records.Record]:
        """Fold them; what is to be said of them. Runs in a worker thread."""
        said: list[exchange_records.Record] = []
        for each in records:
            self._steps += 1
            state = self._state.skip_to(each.offset)
            self._state, actions = gradient_log.fold_blob(
                gradient_log.fold, self._rules, state, each.value, each.offset
            )
            for action in actions:
                said += self._consequences(action, each)
            if not any(isinstance(action, Rejected) for action in actions):
                record = exchange_records.decode(each.value)
                said += [record] if isinstance(record, Join | Leave) else []
        return said

    def _consequences(self, action: Action, record: Record) -> Iterator[exchange_records.Record]:
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
                pass  # an update's state says the others by itself

    def _reject(self, edge: str, reason: str, offset: int) -> None:
        if (suppressed := self._throttle.pass_on("rejected", self._polled_at)) is not None:
            who = {"edge": edge} if edge else {}
            topic = self._gradients.topic
            logger().warning(
                "exchange.rejected", **who, topic=topic, offset=offset, reason=reason, suppressed=suppressed
            )

    async def _send(self, records: Sequence[exchange_records.Record]) -> None:
        messages = [Message(self._train.topic, exchange_records.encode(record)) for record in records]
        if messages:
            await self._log.append(messages)
        if any(isinstance(record, Update) for record in records):
            now = asyncio.get_running_loop().time()
            self._deadline.record(now - self._step_began_at)
            self._step_began_at, self._closes_at = now, None

    # when to wait no longer

    def _timeout_s(self) -> float:
        if self._closes_at is None:
            return _POLL_S
        return max(0.0, min(_POLL_S, self._closes_at - asyncio.get_running_loop().time()))

    async def _close_if_due(self) -> None:
        """From a step's first gradient on, the others have until the deadline."""
        now = asyncio.get_running_loop().time()
        if not self._state.gradients:
            self._closes_at = None
        elif self._closes_at is None:
            self._closes_at = now + self._deadline.seconds(self._state)
        elif now >= self._closes_at - _TICK_S:
            await self._log.append(
                [Message(self._gradients.topic, exchange_records.encode(Close(self._state.step, self._rules.server)))]
            )
            self._closes_at = now + self._deadline.seconds(self._state)


def _log_adopted(group: State) -> None:
    epoch = 0 if group.begin is None else group.begin.epoch
    logger().info("exchange.adopted", generation=group.step, epoch=epoch, offset=group.next_offset)


def _join(record: Record) -> Join | None:
    decoded = _decoded(record) if len(record.value) <= _SMALL_BYTES else None
    return decoded if isinstance(decoded, Join) else None


def _decoded(record: Record) -> exchange_records.Record | None:
    try:
        return exchange_records.decode(record.value)
    except FormatError:
        return None
