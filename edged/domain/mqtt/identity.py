"""Recognises a device's samples by their ids: which came before, and which are missing.

Covers one device, in bounded memory, whatever its ids are. See also: `services.mqtt.known_ids`, which reads those of
earlier runs.
"""

import re
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from edged.domain.topology import IdKind
from edged.errors import RejectedRecord

WRONG_ID = "wrong_id"
"""The reason for which an id is refused: one of `domain.samples.sample.REASONS`."""

WINDOW = 1024
"""Numbers below the highest one that are recognised when they come late, or again."""

MAX_TEXTS = 10_000
"""Of one device: the last ids that are recognised."""

TEXT_IDS_BYTES = 4 << 20
"""Memory that MAX_TEXTS ids of the greatest length take."""

MAX_SERIES = 256
"""Of one device, the last ones: each crash of its program begins a new one, and it sends again what has no receipt."""

_COUNTER = re.compile(r"(?:(?P<series>[^:]{1,64}):)?(?P<number>[0-9]{1,18})")
_BITS = (1 << WINDOW) - 1


class Seen(NamedTuple):
    """What is known of a sample by its id.

    `missing`: numbers that this one skips; -1 for one that was missing and comes late. `has_restarted`: the counter
    fell by more than its window: the device began to count again, and its samples are new.
    """

    is_duplicate: bool
    missing: int = 0
    has_restarted: bool = False


NEW, DUPLICATE = Seen(is_duplicate=False), Seen(is_duplicate=True)


class Ledger(Protocol):
    """The ids of one device. Both methods raise RejectedRecord(wrong_id) for what is none."""

    def check(self, sample_id: str) -> None:
        """Check that this is an id of the declared kind."""

    def see(self, sample_id: str) -> Seen:
        """Record the id. Returns what is known of its sample."""


def ledger(kind: IdKind) -> Ledger:
    """The ledger for a device that declares ids of this kind."""
    if kind == "none":
        return AnyIds()
    return CounterIds() if kind == "counter" else TextIds()


def num_ids_to_read(kind: IdKind) -> int:
    """How many of the newest ids in the device's topic a ledger needs at a start."""
    return {"none": 0, "counter": 2 * WINDOW, "text": MAX_TEXTS}[kind]


class AnyIds:
    """For a device that declares no ids: every sample is new."""

    def check(self, sample_id: str) -> None:
        """See `Ledger`."""

    def see(self, sample_id: str) -> Seen:  # noqa: ARG002 - see `Ledger`
        """See `Ledger`."""
        return NEW


class TextIds:
    """Any texts, of which the last MAX_TEXTS are known."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._order: deque[str] = deque()

    def check(self, sample_id: str) -> None:
        """See `Ledger`."""

    def see(self, sample_id: str) -> Seen:
        """See `Ledger`."""
        if sample_id in self._known:
            return DUPLICATE
        if len(self._order) == MAX_TEXTS:
            self._known.discard(self._order.popleft())
        self._known.add(sample_id)
        self._order.append(sample_id)
        return NEW


@dataclass(slots=True)
class _Series:
    """`bits`: bit i is set where `highest` - i was seen."""

    highest: int
    bits: int = 1

    def see(self, number: int) -> Seen:
        ahead = number - self.highest
        if ahead > 0:
            self.highest = number
            self.bits = (self.bits << ahead | 1) & _BITS if ahead < WINDOW else 1
            return Seen(is_duplicate=False, missing=ahead - 1)
        if -ahead >= WINDOW:
            self.highest, self.bits = number, 1
            return Seen(is_duplicate=False, has_restarted=True)
        bit = 1 << -ahead
        if self.bits & bit:
            return DUPLICATE
        self.bits |= bit
        return Seen(is_duplicate=False, missing=-1)


class CounterIds:
    """Numbers that rise by one, as `<number>` or `<series>:<number>`; each series has its own."""

    def __init__(self) -> None:
        self._series: OrderedDict[str, _Series] = OrderedDict()

    def check(self, sample_id: str) -> None:
        """See `Ledger`."""
        _parse(sample_id)

    def see(self, sample_id: str) -> Seen:
        """See `Ledger`."""
        name, number = _parse(sample_id)
        known = self._series.get(name)
        if known is None:
            if len(self._series) == MAX_SERIES:
                self._series.popitem(last=False)
            self._series[name] = _Series(number)
            return NEW
        self._series.move_to_end(name)
        return known.see(number)


def _parse(sample_id: str) -> tuple[str, int]:
    """The counter's series and number."""
    parts = _COUNTER.fullmatch(sample_id)
    if parts is None:
        raise RejectedRecord(WRONG_ID, "the id is no counter: a number of up to 18 digits, or SERIES:NUMBER")
    return parts["series"] or "", int(parts["number"])
