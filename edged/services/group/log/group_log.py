"""A training group's log as one member uses it: reads records in order from an offset on, and appends records.

See also: `domain.group` for what the records mean, `services.group.follower` for the fold over them.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from edged.domain.group import formats, recovery
from edged.domain.group import records as group_records
from edged.domain.group.formats import Announcement
from edged.domain.group.records import NEWEST_FORMAT
from edged.domain.nn.backend import NUMPY
from edged.errors import LogGap
from edged.ports import Log, Message, Record, TopicPartition
from edged.reading import read_to_end
from edged.services.group.log.ordered_reader import OrderedReader, read_in_order

RECORDS_PER_POLL = 8
"""4 MiB of gradients, so that a stop need not wait long for the fold over them."""


@dataclass(frozen=True, slots=True)
class GroupAddress:
    """Who a member is, and where its group's records go.

    `reads`: the topic that the weights are a fold over; `writes`: where the member's own records go, the same topic
    unless there is a parameter server in between.
    """

    edge: str
    edges: tuple[str, ...]
    reads: str
    writes: str


class GroupLog:
    """The log of one group. Used by one task; read inside `open()`, appended to at any time."""

    def __init__(self, log: Log, address: GroupAddress, *, backend: str = NUMPY) -> None:
        """`backend`: by which the member can compute, as each record that is written announces."""
        self._log = log
        self._headers = formats.headers(Announcement(NEWEST_FORMAT, backend))
        self.address = address
        self._reads = TopicPartition(address.reads)
        self._reader: OrderedReader | None = None

    @asynccontextmanager
    async def open(self, offset: int) -> AsyncIterator[None]:
        """Read from `offset` on. Waits for the log. Raises LogGap when it cannot be folded on from there."""
        low, _stable, high = (await self._log.watermarks([self._reads]))[self._reads]
        if not recovery.can_resume(offset, low, high):
            raise LogGap(offset, low)
        async with read_in_order(self._log, self._reads, offset) as self._reader:
            yield

    @property
    def position(self) -> int:
        """The offset of the next record to read, if there is one."""
        assert self._reader is not None, "open() first"
        return self._reader.position(self._reads)

    @property
    def lag(self) -> int:
        """Records known to be in the log and not read yet."""
        assert self._reader is not None, "open() first"
        return self._reader.lag

    async def poll(self, timeout_s: float) -> Sequence[Record]:
        """The next records, at most RECORDS_PER_POLL; none when none come within `timeout_s`. Raises LogGap."""
        assert self._reader is not None, "open() first"
        return await self._reader.poll(max_records=RECORDS_PER_POLL, timeout_s=timeout_s)

    async def read_to_end(self) -> AsyncGenerator[Sequence[Record], None]:
        """The records up to the log's present end, at most RECORDS_PER_POLL at a time. Raises LogGap."""
        assert self._reader is not None, "open() first"
        reading = read_to_end(self._log, self._reader, self._reads, max_records=RECORDS_PER_POLL)
        async with aclosing(reading):
            async for records in reading:
                yield records

    async def append(self, records: Sequence[group_records.Record], running: group_records.Begin | None = None) -> int:
        """Append them in this order, in the format of the `running` epoch.

        Returns the bytes sent to a topic other than the one that is read.

        Cancelled: all of them, some, or none are in the log.
        """
        blobs = [group_records.encode(record, formats.of_record(record, running)) for record in records]
        messages = [Message(self.address.writes, blob, headers=self._headers) for blob in blobs]
        await self._log.append(messages)
        return sum(len(message.value) for message in messages) if self.address.writes != self.address.reads else 0
