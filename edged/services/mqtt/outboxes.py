"""The outboxes of one job's devices, and how far its predictions have been offered to them."""

import asyncio
from collections.abc import Mapping

from edged.domain.place import Place
from edged.ports import Record
from edged.services.mqtt.outbox import Outbox


class Outboxes:
    """`end`: all records before it have been offered. `incarnation`: of their log, see `domain.place`."""

    def __init__(self) -> None:
        self.end = 0
        self.incarnation = ""
        self._of_key: dict[bytes, Outbox] = {}
        self._to_catch_up = asyncio.Event()

    def resume(self, place: Place, undelivered: Mapping[str, int]) -> None:
        """At a start: all before `place` was offered. `undelivered`: as of the method."""
        self.end, self.incarnation = place.offset, place.incarnation
        for device, offset in undelivered.items():
            self.of_device(device).resume(offset)

    def of_device(self, device: str) -> Outbox:
        """The device's outbox, which it has from now on."""
        return self._of_key.setdefault(device.encode(), Outbox(device, self._to_catch_up))

    def of(self, record: Record) -> Outbox | None:
        """The outbox of the device that the prediction is for; None: it has none."""
        return None if record.key is None else self._of_key.get(record.key)

    def offer(self, record: Record) -> None:
        """A new record, the next in the log or the first of another one."""
        self.passed(record.offset, record.incarnation)
        if (outbox := self.of(record)) is not None:
            outbox.offer(record)
        self.end = record.offset + 1

    def passed(self, end: int, incarnation: str) -> None:
        """All records before `end` have been offered, or are none."""
        if incarnation != self.incarnation:
            for each in self._of_key.values():
                each.forget()
        self.end, self.incarnation = end, incarnation

    def undelivered(self) -> dict[str, int]:
        """The first offset that each lagging device has not got."""
        places = {each.device: each.state.place(self.end) for each in self._of_key.values()}
        return {device: place for device, place in places.items() if place < self.end}

    async def to_catch_up(self) -> set[Outbox]:
        """Wait for outboxes that are to catch up; all of them."""
        while not (found := {each for each in self._of_key.values() if each.state.is_to_catch_up}):
            self._to_catch_up.clear()
            await self._to_catch_up.wait()
        return found
