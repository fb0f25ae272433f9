"""Which of a segment's files are packed into one: neighbours of one log, until they are large together.

Blocks keep their offsets and their rows, so a plan is the same before and after.
"""

from collections.abc import Iterator, Sequence

from edged.domain.archive.segment_index import IndexedFile

PACKED_BYTES = 128 << 20
"""From there on a file is large: what a file costs a store and a reader is then a small part of what it holds."""

MAX_BLOCKS = 1024
"""Of a packed file: its footer, which a reader holds, has about 1 kB for each."""


def groups(
    files: Sequence[IndexedFile], *, is_complete: bool, packed_bytes: int = PACKED_BYTES
) -> Iterator[tuple[int, int]]:
    """The files to pack, as (first, after the last) of each group of at least two.

    What is half as large stays as it is: packed once more with each new file it would be written again and again.
    `is_complete`: no more files come to this segment, so that what is left over is packed, too, though it is small.
    """
    begin, num_bytes, num_blocks = 0, 0, 0
    for number, file in enumerate(files):
        is_large = file.size >= packed_bytes // 2 or len(file.offset) >= MAX_BLOCKS
        fits = number == begin or _are_neighbours(files[number - 1], file)
        if is_large or file.is_damaged or not fits or num_blocks + len(file.offset) > MAX_BLOCKS:
            if num_blocks > MAX_BLOCKS // 2 or is_complete or not fits or is_large or file.is_damaged:
                yield from _group(begin, number)
            begin, num_bytes, num_blocks = number, 0, 0
        if is_large or file.is_damaged:
            begin = number + 1
            continue
        num_bytes += file.size
        num_blocks += len(file.offset)
        if num_bytes >= packed_bytes:
            yield from _group(begin, number + 1)
            begin, num_bytes, num_blocks = number + 1, 0, 0
    if is_complete:
        yield from _group(begin, len(files))


def _group(begin: int, end: int) -> Iterator[tuple[int, int]]:
    if end - begin > 1:
        yield begin, end


def _are_neighbours(before: IndexedFile, after: IndexedFile) -> bool:
    return before.next == after.first and (before.log, before.base) == (after.log, after.base)
