"""One device's predictions on their way: the next few here, the others in Kafka, from a known offset on.

Covers what is here and what is not; sends nothing. Of a device that takes none only the first one is kept, and the
newest, so that one that is never there costs next to nothing. See also: `deliverer` (offers what is new), `catch_up`
(offers again what was left in Kafka), `sender`.
"""

import asyncio
from collections import deque

from edged.ports import Record

MAX_RECORDS = 64
MAX_BYTES = 64 * 1024
"""Of one device, but for a single record that is larger."""


class Outbox:
    """The way of one device's predictions, in Kafka's order.

    One task offers what is new, one what is to be caught up on, and one sends the first of what waits.
    """

    def __init__(self, device: str, to_catch_up: asyncio.Event) -> None:
        """`to_catch_up`: set once it is."""
        self.device = device
        self._to_catch_up = to_catch_up
        self._waiting: deque[Record] = deque()
        self._num_bytes = 0
        self._behind_from: int | None = None
        self._ahead: int | None = None
        """Of the record that was tried last before others that it follows: sent or not."""
        self._num_left = 0
        """In Kafka, as far as is known."""
        self._newest: Record | None = None
        """Of those that came while it is stuck."""
        self._is_stuck = self._is_catching_up = False
        self._has_first, self._is_new, self._has_room = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @property
    def is_to_catch_up(self) -> bool:
        """Whether what it has not got is only in Kafka, and it takes what it is sent."""
        return self._behind_from is not None and not self._is_stuck and not self._waiting

    @property
    def is_catching_up(self) -> bool:
        """Whether it is offered again what was left, since `catch_up` and until that was all, or it is stuck."""
        return self._is_catching_up

    def place(self, end: int) -> int:
        """The first offset that the device has not got, of those before `end`."""
        behind_from = end if self._behind_from is None else self._behind_from
        return min(behind_from, self._waiting[0].offset) if self._waiting else behind_from

    def resume(self, behind_from: int) -> None:
        """At a start: the device has not got what is in Kafka from there on."""
        self._behind_from = behind_from
        self._to_catch_up.set()

    def offer(self, record: Record) -> None:
        """A new one: it waits here, or is to be offered again."""
        self._is_new.set()
        if self._behind_from is None and not self._is_stuck and self._takes(record):
            self._put(record)
            return
        self._num_left += 1
        if self._behind_from is None:
            self._behind_from = record.offset
        if self._is_stuck:
            self._newest = record

    def catch_up(self) -> int:
        """Begin to; the first offset that is to be offered again."""
        assert self._behind_from is not None
        self._is_catching_up = True
        return self._behind_from

    def offer_again(self, record: Record) -> bool:
        """One that may have been left in Kafka; False: it is to be offered once there is room."""
        if not self._is_catching_up or self._behind_from is None or record.offset < self._behind_from:
            return True
        if record.offset != self._ahead:
            if not self._takes(record):
                return False
            self._put(record)
            self._num_left = max(0, self._num_left - 1)
        self._behind_from = record.offset + 1
        return True

    def caught_up(self) -> int:
        """All that was left in Kafka has been offered again; how many were not, that are too old by now.

        Nothing happens unless it is still catching up.
        """
        if not self._is_catching_up:
            return 0
        num_expired, self._num_left = self._num_left, 0
        self._behind_from = self._ahead = None
        self._is_catching_up = False
        return num_expired

    def forget(self) -> None:
        """What Kafka has is another log: nothing is behind in it, and what waits here has no place in it."""
        self._waiting.clear()
        self._num_bytes = self._num_left = 0
        self._behind_from = self._ahead = self._newest = None
        self._is_stuck = self._is_catching_up = False
        self._has_room.set()

    async def first(self) -> Record:
        """The next one to send, once there is one; it stays the first until `sent` or `expired`."""
        while not self._waiting:
            self._has_first.clear()
            await self._has_first.wait()
        return self._waiting[0]

    async def until_new(self) -> None:
        """Return once a new one was offered since `stuck`: the device has sent a sample."""
        await self._is_new.wait()

    async def until_room(self) -> None:
        """Return once more of them can be offered, or nothing is to be expected of the device for now."""
        self._has_room.clear()
        await self._has_room.wait()

    def sent(self, record: Record) -> None:
        """The broker has it, for a device that takes it."""
        self._is_stuck = False
        if record.offset == self._ahead:
            self._num_left -= 1
        self._remove(record)

    def expired(self, record: Record) -> int:
        """It is too old to be sent; how many are so that were not counted yet and will not be."""
        self._remove(record)
        num_expired = 0 if record.offset == self._ahead else 1
        if self._is_stuck and not self._waiting:
            self._try_newest()
        return num_expired

    def stuck(self) -> None:
        """The first one could not be sent: the others are left in Kafka until it was."""
        if not self._is_stuck:
            self._is_stuck, self._newest = True, None
        self._is_catching_up = False
        self._is_new.clear()
        while len(self._waiting) > 1:
            left = self._waiting.pop()
            self._num_bytes -= len(left.value)
            self._num_left += 1
            self._behind_from = left.offset
        self._has_room.set()

    def _try_newest(self) -> None:
        """What is left in Kafka follows once somebody has taken the newest one; without one, the next one left does."""
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
        """Nothing happens if it was forgotten meanwhile."""
        if self._waiting and self._waiting[0] is record:
            self._waiting.popleft()
            self._num_bytes -= len(record.value)
        self._has_room.set()
        if self.is_to_catch_up:
            self._to_catch_up.set()
