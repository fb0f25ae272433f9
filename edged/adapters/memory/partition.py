"""One partition of the fake log: its records, the offsets that hold none, and the transactions of other clients."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from operator import attrgetter

from edged.domain import place as places
from edged.domain.place import Place, Seen
from edged.ports import Record, Watermarks


class Fate(Enum):
    """What has become of a transaction."""

    OPEN = auto()
    COMMITTED = auto()
    ABORTED = auto()


@dataclass(eq=False)
class Transaction:
    """A transaction of another client."""

    fate: Fate = Fate.OPEN


@dataclass
class Partition:
    """Offsets from `low` to `high`; those without a record are markers, compacted holes or unreadable batches."""

    topic_id: str = ""
    low: int = 0
    high: int = 0
    records: list[Record] = field(default_factory=list)
    _transactions: dict[int, Transaction] = field(default_factory=dict)
    """Of the offsets written in one."""

    @property
    def stable(self) -> int:
        """The last stable offset: of the first record in an open transaction."""
        open_offsets = (offset for offset, each in self._transactions.items() if each.fate is Fate.OPEN)
        return min(open_offsets, default=self.high)

    @property
    def watermarks(self) -> Watermarks:
        return Watermarks(self.low, self.stable, self.high)

    def seen(self, place: Place) -> Seen:
        """The log as seen from the place."""
        before = self._fingerprint(places.offset_of(place.before)) if place.before else ""
        following = (self._fingerprint(self._from(offset)) for offset in (place.offset, self.low))
        return Seen(self.topic_id, self.low, self.high, before, *following)

    def add(self, record: Record, transaction: Transaction | None = None) -> None:
        """Append the record, whose offset is `high`."""
        if transaction is not None:
            self._transactions[record.offset] = transaction
        self.records.append(record)
        self.high += 1

    def skip(self, count: int) -> None:
        """Use up offsets for what is no record."""
        self.high += count

    def remove(self, first: int, end: int) -> None:
        """Remove the records from offset `first` to `end` - 1, as compaction does."""
        del self.records[self._index(first) : self._index(end)]

    def lose(self, kept: int) -> None:
        """Lose the newest records: `kept` are left."""
        del self.records[kept:]
        self.high = self.records[-1].offset + 1 if self.records else self.low

    def truncate(self, before: int) -> None:
        """Delete the records below offset `before`, as retention does."""
        self.remove(self.low, before)
        self.low, self.high = before, max(before, self.high)

    def readable(self, first: int, *, own: bool) -> Iterator[Record]:
        """The records from offset `first` on that a reader gets: see `ports.Log.reader`."""
        stable = self.high if own else self.stable
        for record in self.records[self._index(first) :]:
            transaction = self._transactions.get(record.offset)
            if record.offset < stable and (transaction is None or transaction.fate is Fate.COMMITTED):
                yield record

    def _fingerprint(self, offset: int) -> str:
        """Of the record at `offset`; "" when it is not here."""
        return next(
            (each.place_after().before for each in self.records[self._index(offset) :][:1] if each.offset == offset), ""
        )

    def _from(self, offset: int) -> int:
        """The offset of the first record from `offset` on."""
        return next((each.offset for each in self.records[self._index(offset) :][:1]), self.high)

    def _index(self, offset: int) -> int:
        return bisect_left(self.records, offset, key=attrgetter("offset"))
