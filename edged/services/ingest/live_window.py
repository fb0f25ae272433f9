"""The live window: new packs for the trainer, by their offset in the edge's own archive topic.

The log is the queue between uplink and trainer: the newest packs are in memory, older ones are read back from the
topic, so a trainer that lags, or resumes from a checkpoint, misses none.
"""

import asyncio
from collections import deque
from contextlib import aclosing

from edged.domain.samples import pack as packs
from edged.domain.samples.pack import Pack
from edged.errors import FormatError
from edged.log import ThrottledLog, logger
from edged.ports import Log, Record, TopicPartition
from edged.reading import read_to_end

MAX_BYTES = 4 << 20
"""Memory of the newest packs: some two seconds of a fast stream of small images."""

_MAX_READ_BACK_BYTES = 2 << 20  # per reader, so that many packs share the cost of connecting
_MAX_RECORDS = 4


class LiveWindow:
    """Packs of one stream. One uplink puts, one trainer takes; both in the same event loop."""

    def __init__(self, log: Log, topic: str, max_bytes: int = MAX_BYTES) -> None:
        self._log = log
        self._topic = topic
        self._max_bytes = max_bytes
        self._newest: deque[tuple[int, Pack]] = deque()  # contiguous, up to the end
        self._newest_bytes = 0
        self._read_back: deque[tuple[int, Pack]] = deque()
        self._read_back_start = 0  # `_read_back` covers the offsets from here to its last
        self._end: int | None = None
        self._log_name = ""
        self._arrived = asyncio.Event()
        self._lines = ThrottledLog()

    @property
    def num_bytes(self) -> int:
        """Memory of the packs."""
        return self._newest_bytes + sum(pack.memory_bytes for _, pack in self._read_back)

    def end(self) -> int | None:
        """The offset of the next pack to be put; None until the uplink has called `start`."""
        return self._end

    @property
    def log_name(self) -> str:
        """The edge's name of the log that the offsets are of; "" until `start`."""
        return self._log_name

    def start(self, end: int, log_name: str = "") -> None:
        """Set the end of the topic's log, and its name; packs before the end can be taken."""
        if log_name != self._log_name:
            self._newest.clear()
            self._read_back.clear()
            self._newest_bytes = 0
        self._end, self._log_name = end, log_name
        self._wake()

    def put(self, offset: int, pack: Pack) -> None:
        """Add the pack acknowledged at `offset`. Evicts the oldest from memory; the topic still has them."""
        if offset != self._end:  # another writer's records or a recreated topic: no longer contiguous
            self._newest.clear()
            self._newest_bytes = 0
        self._newest.append((offset, pack))
        self._newest_bytes += pack.memory_bytes
        while self._newest_bytes > self._max_bytes:
            self._newest_bytes -= self._newest.popleft()[1].memory_bytes
        self._end = offset + 1
        self._wake()

    def take_nowait(self, offset: int) -> tuple[int, Pack] | None:
        """The pack at `offset`, or the next one after it, if it is in memory."""
        if self._newest and offset >= self._newest[0][0]:
            self._read_back.clear()
            index = offset - self._newest[0][0]
            return self._newest[index] if index < len(self._newest) else None
        if not self._read_back or not self._read_back_start <= offset <= self._read_back[-1][0]:
            return None
        while self._read_back[0][0] < offset:
            self._read_back.popleft()
        self._read_back_start = offset
        return self._read_back[0]

    async def take(self, offset: int, timeout_s: float) -> tuple[int, Pack] | None:
        """The pack at `offset`, or the next one after it if that is gone; None if there is none within `timeout_s`.

        From memory, else from the topic, which needs a connection: allow a second or so. An offset beyond the end is
        of a topic that was recreated since, and counts as the end. A negative offset only waits until the end is
        known. Cancelled: nothing is lost, since taking removes nothing; only the caller's offset moves.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    end = await self._known_end()
                    if offset < 0:
                        return None
                    if offset > end:
                        logger().warning("uplink.rewound", topic=self._topic, wanted_offset=offset, next_offset=end)
                        offset = end
                    if offset == end:
                        await self._arrived.wait()
                    elif (pack := self.take_nowait(offset)) is not None:
                        return pack
                    else:
                        offset = await self._read(offset, end)
        except TimeoutError:
            return None

    async def _known_end(self) -> int:
        while self._end is None:
            await self._arrived.wait()
        return self._end

    async def _read(self, offset: int, end: int) -> int:
        """Read packs from `offset` on into memory; return the offset from which to try next."""
        self._read_back.clear()
        self._read_back_start = offset
        partition, num_bytes = TopicPartition(self._topic), 0
        async with (
            self._log.reader({partition: offset}, own=True) as reader,
            aclosing(read_to_end(self._log, reader, partition, max_records=_MAX_RECORDS, end=end, own=True)) as reading,
        ):
            async for records in reading:
                for record in records:
                    # Records beyond the end are not put yet.
                    if record.offset < end and (pack := self._decode(record)) is not None:
                        self._read_back.append((record.offset, pack))
                        num_bytes += pack.memory_bytes
                if num_bytes >= _MAX_READ_BACK_BYTES:
                    break
        return offset if self._read_back else end

    def _decode(self, record: Record) -> Pack | None:
        try:
            return packs.decode(record.value)
        except FormatError as error:
            topic, err = record.topic, str(error)
            self._lines.warning("uplink.malformed", topic, topic=topic, offset=record.offset, err=err)
            return None

    def _wake(self) -> None:
        self._arrived.set()
        self._arrived = asyncio.Event()
