"""One device's predictions that are not delivered yet, as a value: the next few, and where the others begin in Kafka.

Decides what is sent when, and forgets nothing that is not delivered; sends nothing. Each method returns the next value.
Of a device that takes none one prediction is kept, and the newest, so that a device that is never there costs next to
nothing. Of one whose predictions the broker refuses, one more at each retry: if that is taken, those are given up. See
also: `services.mqtt.outbox` (whose tasks act by it).

Predictions are sent in Kafka's order, a window at a time. The exceptions: the newest is tried out of turn where the
first has become too old, and where a subscriber comes while some are on their way, those before follow those after.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, Protocol, TypeVar

from edged.domain.mqtt.way_back import remaining_s

MAX_RECORDS = 64
MAX_BYTES = 64 * 1024
"""Of one device; a single record may be larger, and what is refused with the one that is tried behind it."""

WINDOW = 16
"""Predictions on their way to the broker, and so what a broken connection or a stop repeats at most."""


class Kept(Protocol):
    """A prediction as Kafka keeps it."""

    @property
    def offset(self) -> int:
        """Its place in the log."""

    @property
    def value(self) -> bytes:
        """What the device gets."""

    @property
    def timestamp_ms(self) -> int:
        """Unix time."""


R = TypeVar("R", bound=Kept)


@dataclass(frozen=True, slots=True)
class OutboxState(Generic[R]):
    """Of one device and job.

    `sending`: on their way, without the broker's verdict. `waiting`: to be sent, by offset. `left_from`: the first
    offset that was left in Kafka. `num_left`: as far as is known, for an earlier run may have left more. `ahead`: the
    offset of the prediction that was tried before those left in Kafka, sent or not. `sent_to`: behind the last one
    delivered in turn. `stuck_at`: the first one that could not be sent; None while the device takes them.
    `newest`: of those that came while it was stuck. `has_new`: one has come since the last retry. `refused_at`: offsets
    of those here that the broker has refused.
    """

    sending: tuple[R, ...] = ()
    waiting: tuple[R, ...] = ()
    left_from: int | None = None
    num_left: int = 0
    ahead: int | None = None
    sent_to: int = 0
    window: int = 1
    stuck_at: int | None = None
    newest: R | None = None
    has_new: bool = False
    is_catching_up: bool = False
    refused_at: frozenset[int] = frozenset()

    @property
    def is_stuck(self) -> bool:
        """Whether nothing is sent until `retry`, or until what is on its way is delivered."""
        return self.stuck_at is not None

    @property
    def is_to_catch_up(self) -> bool:
        """Whether what is to be sent next is only in Kafka."""
        if self.left_from is None or self.sending:
            return False
        return self._is_another_tried if self.is_stuck else not self.waiting

    def place(self, end: int) -> int:
        """The first offset that the device has not got, of those before `end`."""
        held = (each.offset for each in (*self.sending, *self.waiting))
        return min(end if self.left_from is None else self.left_from, *held, end)

    # What comes from Kafka.

    def offered(self, record: R) -> "OutboxState[R]":
        """A new prediction: it waits here, or is left in Kafka to be offered again."""
        if self.left_from is None and self._has_room(record):
            return replace(self, waiting=(*self.waiting, record), has_new=True)
        return replace(
            self,
            left_from=record.offset if self.left_from is None else self.left_from,
            num_left=self.num_left + 1,
            newest=record if self.is_stuck else None,
            has_new=True,
        )

    def catching_up(self) -> "OutboxState[R]":
        """It is offered again what was left in Kafka, all from `left_from` on, until `caught_up` or it is stuck."""
        return replace(self, is_catching_up=True)

    def offered_again(self, record: R) -> "OutboxState[R] | None":
        """A prediction that may have been left in Kafka; None: there is no room for it yet.

        One that is stuck takes one and catches up no more.
        """
        if not self.is_catching_up or self.left_from is None or record.offset < self.left_from:
            return self
        if record.offset == self.ahead:
            return replace(self, left_from=record.offset + 1)
        if not self._has_room(record):
            return replace(self, is_catching_up=False) if self.is_stuck else None
        return replace(
            self,
            waiting=(*self.waiting, record),
            left_from=record.offset + 1,
            num_left=max(0, self.num_left - 1),
            is_catching_up=not self.is_stuck,
        )

    def caught_up(self) -> "tuple[OutboxState[R], int]":
        """All that Kafka has was offered again; and how many were not offered, for they are too old by now.

        Changes nothing unless it is still catching up.
        """
        if not self.is_catching_up:
            return self, 0
        return replace(self, left_from=None, ahead=None, num_left=0, is_catching_up=False), self.num_left

    # What is sent.

    def due(self, now_ms: int) -> "Due[R]":
        """What is to be sent now."""
        return Due(self) if self.is_stuck else _taken(self, self.window - len(self.sending), now_ms)

    def retry(self, now_ms: int) -> "Due[R]":
        """Stuck, with nothing on its way: what is tried now. It is stuck no more if there is none."""
        due = _taken(replace(self, has_new=False), self.num_tried, now_ms)
        if due.records:
            return due
        state, newest = due.state, due.state.newest
        if newest is None or state.ahead is not None:  # of two ahead, one would be forgotten and sent again
            return due._replace(state=replace(state, stuck_at=None, newest=None))
        later = _taken(replace(state, ahead=newest.offset, newest=None, waiting=(newest,)), 1, now_ms)
        return later._replace(num_expired=due.num_expired + later.num_expired)

    def delivered(self, record: R) -> "OutboxState[R]":
        """The broker has delivered it to a subscriber. Changes nothing if it was forgotten meanwhile."""
        if not _has(self.sending, record):
            return self
        is_ahead = record.offset == self.ahead
        is_over = self.stuck_at is not None and record.offset >= self.stuck_at
        return replace(
            self,
            sending=_without(self.sending, record),
            num_left=max(0, self.num_left - is_ahead),
            sent_to=self.sent_to if is_ahead else max(self.sent_to, record.offset + 1),
            window=WINDOW,
            stuck_at=None if is_over else self.stuck_at,
            newest=None if is_over else self.newest,
            refused_at=self.refused_at - {record.offset},
        )

    def undelivered(self, record: R) -> "OutboxState[R]":
        """Nobody subscribes, or the connection broke: it is to be sent again."""
        if not _has(self.sending, record):
            return self
        waiting = sorted((record, *self.waiting), key=lambda each: each.offset)
        return _stuck(replace(self, sending=_without(self.sending, record), waiting=tuple(waiting)), record)

    def refused(self, record: R) -> "tuple[OutboxState[R], bool]":
        """The broker refuses it; and whether it is given up: for the second time, with one behind it delivered."""
        if not _has(self.sending, record):
            return self, False
        without = replace(self, sending=_without(self.sending, record), refused_at=self.refused_at - {record.offset})
        if record.offset == self.ahead:  # offered again in its turn
            return replace(without, ahead=None), False
        if record.offset in self.refused_at and record.offset < self.sent_to:
            return without, True
        return replace(self, refused_at=self.refused_at | {record.offset}).undelivered(record), False

    def unanswered(self) -> "OutboxState[R]":
        """The broker takes too long over what is on its way, which is not sent again while it may still answer."""
        return _stuck(self, min(self.sending, key=lambda each: each.offset)) if self.sending else self

    @property
    def num_tried(self) -> int:
        """While it is stuck: the first, or all that were refused and one behind them."""
        return min(len(self.refused_at) + 1, WINDOW)

    @property
    def _is_another_tried(self) -> bool:
        """Stuck: whether it may be these predictions alone that the broker refuses, and there is room for one more."""
        held = (*self.sending, *self.waiting)
        is_small = len(held) == 1 or sum(len(each.value) for each in held) <= MAX_BYTES
        return bool(self.refused_at) and len(held) < self.num_tried and is_small

    def _has_room(self, record: R) -> bool:
        if self.is_stuck:
            return self._is_another_tried
        held = (*self.sending, *self.waiting)
        num_bytes = sum(len(each.value) for each in held) + len(record.value)
        return not held or (len(held) < MAX_RECORDS and num_bytes <= MAX_BYTES)


class Due(NamedTuple, Generic[R]):
    """What is to be done: `records` are sent in this order, and `num_expired` were too old. `state`: after that."""

    state: OutboxState[R]
    records: Sequence[R] = ()
    num_expired: int = 0


def _has(records: Sequence[R], record: R) -> bool:
    """By identity: offsets of a recreated topic mean other records."""
    return any(each is record for each in records)


def _without(records: Sequence[R], record: R) -> tuple[R, ...]:
    return tuple(each for each in records if each is not record)


def _taken(state: OutboxState[R], count: int, now_ms: int) -> Due[R]:
    """The first `count` that wait, as sent, and without those before that are too old."""
    records: list[R] = []
    num_seen = num_expired = 0
    ahead = state.ahead
    for record in state.waiting:
        if len(records) >= count:
            break
        num_seen += 1
        if remaining_s(record.timestamp_ms, now_ms) is not None:
            records.append(record)
        elif record.offset == ahead:
            ahead = None  # counted with those left in Kafka
        else:
            num_expired += 1
    if not num_seen:
        return Due(state)
    state = replace(state, sending=(*state.sending, *records), waiting=state.waiting[num_seen:], ahead=ahead)
    return Due(_without_forgotten(state), tuple(records), num_expired)


def _stuck(state: OutboxState[R], at: R) -> OutboxState[R]:
    """All that wait are left in Kafka, but what is tried again, and those before one that is delivered or may be."""
    may_be_to = max((each.offset for each in state.sending), default=0)
    num_kept = max(state.num_tried, sum(each.offset < max(state.sent_to, may_be_to) for each in state.waiting))
    left = [each.offset for each in state.waiting[num_kept:]]
    stuck = replace(
        state,
        waiting=state.waiting[:num_kept],
        left_from=min([*left, *([] if state.left_from is None else [state.left_from])], default=None),
        num_left=state.num_left + len(left),
        window=1,
        stuck_at=at.offset if state.stuck_at is None else min(at.offset, state.stuck_at),
        newest=state.newest if state.is_stuck else None,
        has_new=state.has_new and state.is_stuck,
        is_catching_up=False,
    )
    return _without_forgotten(stuck)


def _without_forgotten(state: OutboxState[R]) -> OutboxState[R]:
    """Without refusals of what is not here any more."""
    if not state.refused_at:
        return state
    return replace(state, refused_at=state.refused_at & {each.offset for each in (*state.sending, *state.waiting)})
