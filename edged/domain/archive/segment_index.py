"""A segment's index: its files that count, one behind the other, and what a snapshot needs of their blocks.

What counts of a source is what the indexes name, from its floor on, and behind that the unbroken tail of files, each at
the offset where the one before it ends. A file in neither counts for nothing, whoever wrote it. See also: `layout`
(names), `index_codec` (its bytes).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edged.domain.archive.layout import WRITTEN, FileName, first_of, segment_of, text_of

Ints = npt.NDArray[np.int64]


class Replaced(NamedTuple):
    """A file that counts no more since `since_ms`, by its name in the segment's folder, and may still be read."""

    name: str
    since_ms: int


class IndexedFile(NamedTuple):
    """A file that counts from `first` to `next`, and its blocks there: int64 each.

    `named`: the first offset in its name. `log`, `base`: as of `source_log.Origin`. `lost`: records in its gaps.
    `since_ms`: when it was written here, by the archive node's clock. `is_damaged`: nothing is known of its blocks.
    """

    generation: int
    named: int
    first: int
    next: int
    size: int
    log: str
    base: int
    lost: int
    since_ms: int
    is_damaged: bool
    offset: Ints
    rows: Ints
    num_bytes: Ints

    @property
    def name(self) -> FileName:
        return FileName(self.named, None if self.generation == WRITTEN else self.next, self.generation)


@dataclass(frozen=True, eq=False)
class SegmentIndex:
    """Columns of files, and of blocks. `log`: of each file, an index into `logs`, which are (name, base).

    `first_block`: int64 [files + 1], where each file's blocks begin.
    """

    segment: int
    generation: Ints
    named: Ints
    first: Ints
    next: Ints
    size: Ints
    log: Ints
    lost: Ints
    since_ms: Ints
    is_damaged: npt.NDArray[np.bool_]
    first_block: Ints
    offset: Ints
    rows: npt.NDArray[np.uint16]
    num_bytes: Ints
    logs: tuple[tuple[str, int], ...]
    replaced: tuple[Replaced, ...] = ()

    def __len__(self) -> int:
        return len(self.first)

    @property
    def end(self) -> int:
        """The offset behind its last file; only of one that has any."""
        return int(self.next[-1])

    @property
    def nbytes(self) -> int:
        """Its memory, about."""
        return 100 * len(self) + 18 * len(self.offset) + 1024

    def file(self, number: int) -> IndexedFile:
        """The file at this place."""
        blocks = slice(*self.first_block[number : number + 2].tolist())
        log, base = self.logs[int(self.log[number])]
        return IndexedFile(
            int(self.generation[number]),
            int(self.named[number]),
            int(self.first[number]),
            int(self.next[number]),
            int(self.size[number]),
            log,
            base,
            int(self.lost[number]),
            int(self.since_ms[number]),
            bool(self.is_damaged[number]),
            self.offset[blocks],
            self.rows[blocks].astype(np.int64),
            self.num_bytes[blocks],
        )

    def files(self) -> Iterator[IndexedFile]:
        """All files, in order."""
        return map(self.file, range(len(self)))

    def file_with(self, offset: int) -> IndexedFile | None:
        """The file that has the offset."""
        number = int(np.searchsorted(self.next, offset, side="right"))
        return self.file(number) if number < len(self) and self.first[number] <= offset else None

    def has(self, file: IndexedFile) -> bool:
        """Whether this very file counts, for the same offsets."""
        found = self.file_with(file.first)
        return found is not None and (found.name, found.first, found.next) == (file.name, file.first, file.next)

    def extended(self, files: Sequence[IndexedFile]) -> "SegmentIndex":
        """The index with these files behind its own."""
        added = index_of(self.segment, files, self.logs)
        joined = {
            name: np.concatenate([getattr(self, name), getattr(added, name)])
            for name in (*FILE_COLUMNS, "offset", "rows", "num_bytes")
        }
        blocks = np.concatenate([self.first_block, added.first_block[1:] + self.first_block[-1]])
        return replace(self, **joined, first_block=blocks, logs=added.logs)

    def packed(self, begin: int, end: int, file: IndexedFile, now_ms: int) -> "SegmentIndex":
        """The index with this file in place of those from `begin` to `end`, of which it has all blocks."""
        files = list(self.files())
        gone = [Replaced(text_of(each.name), now_ms) for each in files[begin:end]]
        made = index_of(self.segment, [*files[:begin], file, *files[end:]])
        return replace(made, replaced=(*self.replaced, *gone))

    def with_replaced(self, name: str, now_ms: int) -> "SegmentIndex":
        """The index with a file that never counted, and goes like those that count no more."""
        return replace(self, replaced=(*self.replaced, Replaced(name, now_ms)))

    def without_replaced(self, gone: Collection[Replaced]) -> "SegmentIndex":
        """The index once these are deleted."""
        return replace(self, replaced=tuple(each for each in self.replaced if each not in gone))

    def behind(self, offset: int) -> "SegmentIndex":
        """The index without its files that end there or before."""
        number = int(np.searchsorted(self.next, offset, side="right"))
        kept = {name: getattr(self, name)[number:] for name in FILE_COLUMNS}
        first = int(self.first_block[number])
        of_blocks = {name: getattr(self, name)[first:] for name in ("offset", "rows", "num_bytes")}
        return replace(self, **kept, **of_blocks, first_block=self.first_block[number:] - first)

    def until(self, number: int) -> "SegmentIndex":
        """The index of its first files alone. What the others have replaced counts again, and is not to be deleted."""
        blocks = int(self.first_block[number])
        end = int(self.next[number - 1]) if number else 0
        replaced = tuple(each for each in self.replaced if first_of(each.name) < end)
        kept = {name: getattr(self, name)[:number] for name in FILE_COLUMNS}
        of_blocks = {name: getattr(self, name)[:blocks] for name in ("offset", "rows", "num_bytes")}
        return replace(self, **kept, **of_blocks, first_block=self.first_block[: number + 1], replaced=replaced)


FILE_COLUMNS = ("generation", "named", "first", "next", "size", "log", "lost", "since_ms", "is_damaged")


def index_of(segment: int, files: Sequence[IndexedFile], logs: tuple[tuple[str, int], ...] = ()) -> SegmentIndex:
    """The index of these files. `logs`: those that it has already."""
    number_of = {log: number for number, log in enumerate(logs)}
    for file in files:
        number_of.setdefault((file.log, file.base), len(number_of))

    def column(name: str) -> Ints:
        return np.array([getattr(file, name) for file in files], np.int64)

    def of_blocks(name: str) -> Ints:
        none: list[Ints] = [np.zeros(0, np.int64)]
        return np.concatenate(none + [getattr(file, name) for file in files])

    return SegmentIndex(
        segment,
        column("generation"),
        column("named"),
        column("first"),
        column("next"),
        column("size"),
        np.array([number_of[file.log, file.base] for file in files], np.int64),
        column("lost"),
        column("since_ms"),
        column("is_damaged").astype(np.bool_),
        np.cumsum([0, *(len(file.offset) for file in files)], dtype=np.int64),
        of_blocks("offset"),
        of_blocks("rows").astype(np.uint16),
        of_blocks("num_bytes"),
        tuple(number_of),
    )


MAX_TAIL = 32
"""Files behind an index: whoever looks for the first time reads their footers; an index costs as much as a file."""


def is_index_due(tail: Sequence[IndexedFile], next_first: int) -> bool:
    """Whether the tail's files are to be indexed before one that begins there is published.

    So an index is complete once its segment is: only the newest segment has a tail. What is damaged has no end of its
    own; the index gives it one, for ever.
    """
    return bool(tail) and (
        len(tail) >= MAX_TAIL
        or segment_of(tail[-1].first) != segment_of(next_first)
        or any(file.is_damaged for file in tail)
    )


def end_of_damaged(first: int, others: Sequence[int]) -> int:
    """Where a tail's file ends that does not say so any more: where the next one begins, or with its first block."""
    return min((other for other in others if other > first), default=first + 1)
