"""One device's predictions that are not delivered yet: the next few in memory, the others in Kafka from an offset on.

Sends nothing. For a device that takes none only the first prediction is kept, and the newest, so that a device that is
never there costs next to nothing. See also: `deliverer` (offers what is new), `catch_up`
(offers again what was left in Kafka), `sender`.
"""

import asyncio
from collections import deque

from edged.ports import Record

MAX_RECORDS = 64
MAX_BYTES = 64 * 1024
"""Of one device; a single record may be larger."""


class Outbox:
    """The predictions of one device, in Kafka's order.

    Used by three tasks: one offers new ones, one offers those again that were left in Kafka, one sends the first.
    """

    def __init__(self, device: str, to_catch_up: asyncio.Event) -> None:
        """`to_catch_up`: set when this outbox has to catch up; all outboxes of a job share it."""
        self.device = device
        self._to_catch_up = to_catch_up
        self._waiting: deque[Record] = deque()
        self._num_bytes = 0
        self._in_kafka_from: int | None = None
        """The first offset that was left in Kafka."""
        self._ahead: int | None = None
        """The offset of the newest record that was tried out of turn, before those left in Kafka; sent or not."""
        self._num_left = 0
        """Records left in Kafka, as far as is known: an earlier run may have left more."""
        self._newest: Record | None = None
        """The newest record that came while it was stuck."""
        self._is_stuck = self._is_catching_up = False
        self._has_first, self._is_new, self._has_room = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @property
    def is_to_catch_up(self) -> bool:
        """Whether the device takes predictions, and those that it lacks are only in Kafka."""
        return self._in_kafka_from is not None and not self._is_stuck and not self._waiting

    @property
    def is_catching_up(self) -> bool:
        """Whether it is being offered again what was left in Kafka: from `catch_up` until `caught_up` or `stuck`."""
        return self._is_catching_up

    def place(self, end: int) -> int:
        """The first offset that the device has not got, of those before `end`."""
        first = end if self._in_kafka_from is None else self._in_kafka_from
        return min(first, self._waiting[0].offset) if self._waiting else first

    def resume(self, offset: int) -> None:
        """At a start: the device lacks what Kafka has from this offset on."""
        self._in_kafka_from = offset
        self._to_catch_up.set()

    def offer(self, record: Record) -> None:
        """A new prediction: it is taken here, or left in Kafka to be offered again."""
        self._is_new.set()
        if self._in_kafka_from is None and not self._is_stuck and self._takes(record):
            self._put(record)
            return
        self._num_left += 1
        if self._in_kafka_from is None:
            self._in_kafka_from = record.offset
        if self._is_stuck:
            self._newest = record

    def catch_up(self) -> int:
        """Begin to catch up; the first offset that is to be offered again."""
        assert self._in_kafka_from is not None
        self._is_catching_up = True
        return self._in_kafka_from

    def offer_again(self, record: Record) -> bool:
        """A prediction that may have been left in Kafka; False: there is no room, offer it again after `until_room`."""
        if not self._is_catching_up or self._in_kafka_from is None or record.offset < self._in_kafka_from:
            return True
        if record.offset != self._ahead:
            if not self._takes(record):
                return False
            self._put(record)
            self._num_left = max(0, self._num_left - 1)
        self._in_kafka_from = record.offset + 1
        return True

    def caught_up(self) -> int:
        """All that Kafka has was offered again; the number of those that were not offered, for they are too old by now.

        Does nothing unless the outbox is still catching up.
        """
        if not self._is_catching_up:
            return 0
        num_expired, self._num_left = self._num_left, 0
        self._in_kafka_from = self._ahead = None
        self._is_catching_up = False
        return num_expired

    def forget(self) -> None:
        """The topic is another log now: no offset that is known here means anything in it."""
        self._waiting.clear()
        self._num_bytes = self._num_left = 0
        self._in_kafka_from = self._ahead = self._newest = None
        self._is_stuck = self._is_catching_up = False
        self._has_room.set()

    async def first(self) -> Record:
        """Wait for the next prediction to send; it stays the first until `sent` or `expired`."""
        while not self._waiting:
            self._has_first.clear()
            await self._has_first.wait()
        return self._waiting[0]

    async def until_new(self) -> None:
        """Wait until a new prediction was offered since `stuck`: the device has sent a sample."""
        await self._is_new.wait()

    async def until_room(self) -> None:
        """Wait until more can be offered, or the device is stuck."""
        self._has_room.clear()
        await self._has_room.wait()

    def sent(self, record: Record) -> None:
        """The broker has delivered the first prediction to a subscriber."""
        self._is_stuck = False
        if record.offset == self._ahead:
            self._num_left -= 1
        self._remove(record)

    def expired(self, record: Record) -> int:
        """The first prediction is too old to be sent; 1 unless `caught_up` counts it."""
        self._remove(record)
        num_expired = 0 if record.offset == self._ahead else 1
        if self._is_stuck and not self._waiting:
            self._try_newest()
        return num_expired

    def stuck(self) -> None:
        """The first prediction could not be sent: all others are left in Kafka until one can."""
        if not self._is_stuck:
            self._is_stuck, self._newest = True, None
        self._is_catching_up = False
        self._is_new.clear()
        while len(self._waiting) > 1:
            left = self._waiting.pop()
            self._num_bytes -= len(left.value)
            self._num_left += 1
            self._in_kafka_from = left.offset
        self._has_room.set()

    def _try_newest(self) -> None:
        """Try the newest prediction out of turn: if it is taken, what was left in Kafka follows."""
        newest, self._newest = self._newest, None
        if newest is not None:
            self._ahead = newest.offset
            self._put(newest)
        else:
            self._is_stuck = False
            self._to_catch_up.set()

    def _takes(self, record: Record) -> bool:
        return not self._waiting or (
            len(self._waiting) < MAX_RECORDS and self._num_bytes + len(record.value) <= MAX_BYTES
        )

    def _put(self, record: Record) -> None:
        self._waiting.append(record)
        self._num_bytes += len(record.value)
        self._has_first.set()

    def _remove(self, record: Record) -> None:
        """Does nothing if it was forgotten meanwhile."""
        if self._waiting and self._waiting[0] is record:
            self._waiting.popleft()
            self._num_bytes -= len(record.value)
        self._has_room.set()
        if self.is_to_catch_up:
            self._to_catch_up.set()
