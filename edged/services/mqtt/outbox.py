"""One device's predictions that are not delivered yet, for the tasks that share them. Decides nothing.

See also: `domain.mqtt.outbox` (decides), `deliverer` (offers what is new), `catch_up` (offers again what was left in
Kafka), `sender`.
"""

import asyncio
from collections.abc import Sequence

from edged.domain.mqtt.outbox import Due, OutboxState
from edged.ports import Record


class Outbox:
    """Of one device and job."""

    def __init__(self, device: str, to_catch_up: asyncio.Event) -> None:
        """`to_catch_up`: set when this outbox has to catch up; all outboxes of a job share it."""
        self.device = device
        self._to_catch_up = to_catch_up
        self._state: OutboxState[Record] = OutboxState()
        self._changed: asyncio.Future[None] | None = None

    @property
    def state(self) -> OutboxState[Record]:
        """As it is now."""
        return self._state

    def resume(self, offset: int) -> None:
        """At a start: the device lacks what Kafka has from this offset on."""
        self._become(OutboxState(left_from=offset))

    def forget(self) -> None:
        """The topic is another log now: no offset that is known here means anything in it."""
        self._become(OutboxState())

    def offer(self, record: Record) -> None:
        """See `OutboxState.offered`."""
        self._become(self._state.offered(record))

    def catch_up(self) -> int:
        """Begin to catch up; the first offset that is to be offered again."""
        assert self._state.left_from is not None
        self._become(self._state.catching_up())
        return self._state.left_from

    async def offer_again(self, record: Record) -> None:
        """See `OutboxState.offered_again`. Waits until there is room; not for a device that is stuck."""
        while (state := self._state.offered_again(record)) is None:
            await asyncio.wait([self.changed()])  # others wait for the same: it is not cancelled
        self._become(state)

    def has_room(self, record: Record) -> bool:
        """Whether `offer_again` would not wait."""
        return self._state.offered_again(record) is not None

    def caught_up(self) -> int:
        """See `OutboxState.caught_up`."""
        state, num_expired = self._state.caught_up()
        self._become(state)
        return num_expired

    def due(self, now_ms: int) -> Due[Record]:
        """See `OutboxState.due`."""
        return self._taken(self._state.due(now_ms))

    def retry(self, now_ms: int) -> Due[Record]:
        """See `OutboxState.retry`."""
        return self._taken(self._state.retry(now_ms))

    def delivered(self, record: Record) -> None:
        """See `OutboxState.delivered`."""
        self._become(self._state.delivered(record))

    def undelivered(self, records: Sequence[Record]) -> None:
        """See `OutboxState.undelivered`."""
        for record in records:
            self._become(self._state.undelivered(record))

    def refused(self, record: Record) -> bool:
        """See `OutboxState.refused`."""
        state, is_given_up = self._state.refused(record)
        self._become(state)
        return is_given_up

    def unanswered(self) -> None:
        """See `OutboxState.unanswered`."""
        self._become(self._state.unanswered())

    def changed(self) -> "asyncio.Future[None]":
        """Done at the next change of `state`, of whatever kind. Others wait for it, too: do not cancel it."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        return self._changed

    def _taken(self, due: Due[Record]) -> Due[Record]:
        self._become(due.state)
        return due

    def _become(self, state: OutboxState[Record]) -> None:
        if state is self._state:
            return
        self._state = state
        if self._changed is not None:
            changed, self._changed = self._changed, None
            if not changed.done():
                changed.set_result(None)
        if state.is_to_catch_up:
            self._to_catch_up.set()
