"""Keeps a node, or a companion, to one run at a time: claims, beats and listens in the node's presence topic.

Covers when it writes and reads, and doing without where it may not. The rule is `domain.presence`. See also:
`adapters.host.process_lock`, which notices a second run in the same state folder without Kafka.

A run that is alone writes one small record at each beat and reads nothing: its record's offset tells that no other was
written in between.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from edged.domain import presence
from edged.domain.presence import Decision, Run, Watch
from edged.errors import AlreadyRunning, AnotherVersion, FormatError, LogRefused, RecordTooLarge
from edged.log import ThrottledLog, logger
from edged.ports import Log, LogReader, Message, Processes, Record, TopicPartition

_TAIL_RECORDS = 256
"""Read at the start: far more than what is written to the topic until a run counts as silent."""

_ANSWER_S = 30.0
"""A topic without an answer for so long, when others have answered, is done without."""

_ASK_AGAIN_S = 30.0
"""How often it is tried again where it is done without."""

_LEAVE_S = 1.0
"""For the last record; one that is missing costs the next run on another machine a few seconds."""


class Presence:
    """One run's. `role` tells it from the node's other processes; `log` is one whose refusals are raised.

    `admitted` is set when the node may work: no other run is older, or it cannot be told.
    """

    def __init__(self, log: Log, topic: str, role: str, own: Run, processes: Processes) -> None:
        self.admitted = asyncio.Event()
        self._log = log
        self._partition = TopicPartition(topic)
        self._role = role
        self._own = own
        self._processes = processes
        self._watch = Watch(own)
        self._is_answered = False
        self._is_warned = False
        self._began_s = 0.0
        self._has_begun = False
        self._lines = ThrottledLog()

    async def run(self) -> None:
        """Beat until cancelled. Raises AlreadyRunning when an older run is alive. Never ends for Kafka's absence."""
        self._began_s = asyncio.get_running_loop().time()
        while True:
            try:
                await self._claim_and_beat()
            except (LogRefused, RecordTooLarge) as refused:
                self._do_without(str(refused))
            except TimeoutError:
                self._do_without(f"no answer about {self._partition.topic} for {_ANSWER_S:.0f} s")
            await asyncio.sleep(_ASK_AGAIN_S)

    async def leave(self) -> None:
        """Tell the next run that this one has ended, unless Kafka is away; after `run`. Takes at most a second."""
        if self._watch.has_claimed and self._is_answered:
            with contextlib.suppress(TimeoutError, LogRefused, RecordTooLarge):
                async with asyncio.timeout(_LEAVE_S):
                    await self._append(has_ended=True)

    async def _claim_and_beat(self) -> None:
        """Returns when there is no topic. Raises TimeoutError only before the node is admitted."""
        topic = self._partition.topic
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(None if self.admitted.is_set() else _ANSWER_S):
                if topic not in await self._log.partitions([topic]):
                    self._do_without(f"there is no topic {topic}")
                    return
                low, _stable, high = (await self._log.watermarks([self._partition]))[self._partition]
                start = {self._partition: max(low, high - _TAIL_RECORDS)}
                reader = await stack.enter_async_context(self._log.reader(start, own=True))
                await self._claim(reader)
            while True:
                await self._pause(reader)
                offset = await self._append()
                if offset < reader.position(self._partition):  # another log: this one's claim is not in it
                    reader.seek(self._partition, max(0, offset - _TAIL_RECORDS))
                    await self._claim(reader)
                elif offset == reader.position(self._partition):
                    reader.seek(self._partition, offset + 1)
                else:
                    await self._read(reader, offset)

    async def _claim(self, reader: LogReader) -> None:
        self._watch = Watch(self._own)
        offset = await self._append()
        self._watch.claimed(offset, asyncio.get_running_loop().time())
        await self._read(reader, offset)

    async def _pause(self, reader: LogReader) -> None:
        """Until the next beat is due; meanwhile listen, if another run is waited for. Raises AlreadyRunning."""
        loop = asyncio.get_running_loop()
        next_s = loop.time() + self._own.every_s
        while (waits_s := self._decide()) > 0 and (left_s := next_s - loop.time()) > 0:
            self._take(await reader.poll(max_records=_TAIL_RECORDS, timeout_s=min(waits_s, left_s)))
        await asyncio.sleep(max(0.0, next_s - loop.time()))

    def _decide(self) -> float:
        """How long to wait for another run; 0 when the node is admitted. Raises AlreadyRunning."""
        decision = self._watch.decide(asyncio.get_running_loop().time(), self._processes.is_gone)
        if decision.yields_to is not None:
            self._tell(decision.yields_to, goes_on=True)
            older = decision.yields_to
            place = presence.where(older.host, decision.since_ms, older.process.pid, older.folder)
            raise AlreadyRunning(
                f"another run of this node is older and goes on: {place}, run_id {older.name}. "
                "Stop it there, or give one of them another name in the topology"
            )
        if self._has_begun:
            return 0.0
        if decision.waits_s <= 0:
            self._begin(decision)
        return decision.waits_s

    def _begin(self, decision: Decision) -> None:
        self._has_begun = True
        self.admitted.set()
        logger().info(
            "presence.begun",
            former=decision.former.name if decision.former else "",
            former_is=decision.former_is,
            former_host=decision.former.host if decision.former else "",
            waited_s=round(asyncio.get_running_loop().time() - self._began_s, 3),
        )

    def _do_without(self, reason: str) -> None:
        self._warn(reason)
        self.admitted.set()

    def _warn(self, reason: str) -> None:
        if not self._is_warned:
            self._is_warned = True
            logger().warning("presence.unknown", reason=reason)

    async def _append(self, *, has_ended: bool = False) -> int:
        self._is_answered = False
        message = Message(self._partition.topic, self._watch.beat(has_ended=has_ended), key=self._role.encode())
        [offset] = await self._log.append([message], refuse_too_large=True)
        self._is_answered = True
        return offset

    async def _read(self, reader: LogReader, offset: int) -> None:
        """Take what there is up to `offset`; what does not come now is read at the next beat."""
        position = -1
        while position < reader.position(self._partition) <= offset:
            position = reader.position(self._partition)
            self._take(await reader.poll(max_records=_TAIL_RECORDS, timeout_s=1.0))

    def _take(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.key == self._role.encode():
                try:
                    beat = presence.decode(record.value)
                except AnotherVersion as error:
                    self._warn(f"a run of another version of edged writes to {self._partition.topic}: {error}")
                    continue
                except FormatError:  # nobody's: it says nothing
                    continue
                younger = self._watch.take(record.offset, record.timestamp_ms, beat)
                if younger is not None:
                    self._tell(younger, goes_on=False)

    def _tell(self, other: Run, *, goes_on: bool) -> None:
        self._lines.warning(
            "presence.another_run",
            other.host,
            other_run=other.name,
            host=other.host,
            pid=other.process.pid,
            folder=other.folder,
            goes_on=goes_on,
        )
