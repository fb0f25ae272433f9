"""Verifies the archive's files: reads every block again and reports what is wrong."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet import rows as parquet_rows
from edged.adapters.parquet.chain import Chain, Source
from edged.adapters.parquet.damage import translated
from edged.adapters.parquet.footers import Footers, indexed, read_footer
from edged.adapters.parquet.indexes import Indexes
from edged.domain.archive import layout
from edged.domain.archive.segment_index import IndexedFile, SegmentIndex
from edged.domain.samples.pack import Pack, of_columns
from edged.errors import AnotherVersion, BlockAbsent, FormatError, StorageError
from edged.ports import ObjectStore

_RECORD = (".damaged", ".passed")


class Finding(NamedTuple):
    """A problem that `verify` found.

    `kind`: corrupt, version (another one), hole, overlap, ignored (counts for nothing), aside, foreign, or refused by
    the border rule.
    """

    kind: str
    path: str
    detail: str


Check = Callable[[int, Pack], Iterable[str]]
"""What is wrong with the samples of a block, by its offset. Raises FormatError for a block that is none."""


class Verification:
    """Of one source, segment by segment. `chain`: what counts of it. Known gaps are no findings: summaries count them.

    Of a file that an index names since before `since_ms` only the place is checked: it is not read. `on_file` is told
    of each file whether it was. Raises ArchiveUnavailable while the archive does not answer.
    """

    def __init__(
        self,
        objects: ObjectStore,
        source: Source,
        chain: Chain | None,
        indexes: Indexes,
        footers: Footers,
        check: Check,
        since_ms: int = 0,
        on_file: Callable[[bool], object] = lambda _is_read: None,
    ) -> None:
        self._objects = objects
        self._source = source
        self._chain = chain
        self._indexes = indexes
        self._footers = footers
        self._check = check
        self._since_ms = since_ms
        self._on_file = on_file
        self._of_before: dict[str, IndexedFile | None] = {}
        """Names of files of the layout before that an index names, and those that were not read."""

    def findings(self) -> Iterator[Finding]:
        """What is wrong."""
        chain = self._chain
        end = 0 if chain is None else chain.floor.first
        folders = self._objects.folders(self._source.folder)
        for name in folders:
            if name not in {layout.ASIDE, "floor"} and not layout.segments([name]):
                yield Finding("foreign", self._path(name), "not a folder of the archive")
        for segment in layout.segments(folders):
            try:
                index, _ = self._indexes.read(self._source.folder, segment)
            except StorageError as error:
                yield Finding("corrupt", self._path(layout.segment_name(segment)), str(error))
                continue
            counted = set() if index is None else {each.name for each in index.replaced}
            unread: dict[str, IndexedFile] = {}
            counted |= set() if index is None else {layout.text_of(each.name) for each in index.files()}
            for file in _of_segment(chain, index, segment):
                counted.add(layout.text_of(file.name))
                yield from self._judge_place(file, end)
                if 0 < file.since_ms < self._since_ms:
                    unread[layout.text_of(file.name)] = file
                else:
                    yield from self._verify_file(file)
                self._on_file(layout.text_of(file.name) not in unread)
                end = max(end, file.next)
            yield from self._judge_names(segment, counted, unread)
        if chain is not None and chain.hidden is not None:
            path, _, detail = str(chain.hidden).partition(": ")
            yield Finding(_kind(chain.hidden), path, detail)
        yield from self._beside()

    def _judge_place(self, file: IndexedFile, end: int) -> Iterator[Finding]:
        path = self._path_of(file)
        if file.first > end:
            yield Finding("hole", path, f"offsets {end} to {file.first - 1} are in no file")
        if file.named < file.first:
            yield Finding("overlap", path, f"offsets {file.named} to {file.first - 1} are in the file before, too")

    def _judge_names(self, segment: int, counted: set[str], unread: dict[str, IndexedFile]) -> Iterator[Finding]:
        """What else is in the segment's folder, and which of the files that were not read are not."""
        folder = f"{self._source.folder}/{layout.segment_name(segment)}"
        chain = self._chain
        end = 0 if chain is None else chain.end
        for name in counted:
            if name.startswith(layout.ABOVE):
                self._of_before[name.removeprefix(layout.ABOVE)] = unread.pop(name, None)
        for name, size in self._objects.list(folder):
            path = self._objects.path(f"{folder}/{name}")
            yield from self._judge_unread(unread.pop(name, None), size)
            parsed = layout.parsed(name)
            if parsed is None:
                yield Finding("foreign", path, "not a file of the archive")
            elif name not in counted and (chain is None or parsed.first < end):  # else it has come since
                yield Finding("ignored", path, "it counts for nothing: other files have its offsets, or it is cut off")
        for name in self._objects.folders(folder):
            if name != "index":
                yield Finding("foreign", self._objects.path(f"{folder}/{name}"), "not a folder of the archive")
        for file in unread.values():
            yield self._gone(file)

    def _judge_unread(self, file: IndexedFile | None, size: int) -> Iterator[Finding]:
        if file is not None and size != file.size:
            yield Finding("corrupt", self._path_of(file), f"{size} bytes, where its index says {file.size}")

    def _gone(self, file: IndexedFile) -> Finding:
        detail = f"the file is gone, with offsets {file.first} to {file.next - 1}"
        return Finding("hole", self._path_of(file), detail)

    def _beside(self) -> Iterator[Finding]:
        """What is in the source's own folder, and what is kept aside."""
        for name, size in self._objects.list(self._source.folder):
            if name not in self._of_before:
                yield Finding("foreign", self._path(name), "not a file of the archive")
            yield from self._judge_unread(self._of_before.pop(name, None), size)
        for file in filter(None, self._of_before.values()):
            yield self._gone(file)
        for name in (each.name for each in self._objects.list(f"{self._source.folder}/{layout.ASIDE}")):
            what = (
                "a record as it came, not archived" if name.endswith(_RECORD) else "was damaged, and is archived again"
            )
            yield Finding("aside", self._path(f"{layout.ASIDE}/{name}"), f"{what}; delete it if you need it not")

    def _verify_file(self, file: IndexedFile) -> Iterator[Finding]:
        place = self._source.file(file)
        path = self._path_of(file)
        try:
            with translated(path), self._footers.open(place) as raw:
                parquet_file.check_digest(raw)
                footer = read_footer(raw, place)
                contents = footer.contents
                _check_indexed(file, indexed(place, contents, file.first))
                for block in range(len(contents.offsets)):
                    pack = of_columns(parquet_rows.read_block(raw, footer, block))
                    if (len(pack.samples), pack.num_bytes) != (contents.rows[block], contents.num_bytes[block]):
                        raise FormatError(f"block {contents.offsets[block]} is not as large as the footer says")
                    for detail in self._check(int(contents.offsets[block]), pack):
                        yield Finding("refused", path, detail)
        except BlockAbsent:
            yield self._gone(file)
        except StorageError as error:
            yield Finding(_kind(error), path, str(error).removeprefix(f"{path}: "))

    def _path(self, name: str = "") -> str:
        return self._objects.path(f"{self._source.folder}/{name}" if name else self._source.folder)

    def _path_of(self, file: IndexedFile) -> str:
        return self._objects.path(self._source.file(file).path)


def _of_segment(chain: Chain | None, index: SegmentIndex | None, segment: int) -> Iterator[IndexedFile]:
    """The files that count there, in order."""
    if chain is None:
        return
    end = 0
    for file in () if index is None else index.files():
        end = file.next
        if end > chain.floor.first:
            yield file
    for file in chain.tail:
        if layout.segment_of(file.first) == segment and file.first >= end:
            yield file


def _check_indexed(file: IndexedFile, found: IndexedFile) -> None:
    """Raise FormatError unless what an index says of the file is what the file says of itself."""
    blocks = slice(0, int(found.offset.searchsorted(file.next)))
    columns = [(file.offset, found.offset), (file.rows, found.rows), (file.num_bytes, found.num_bytes)]
    if not file.is_damaged and not all(np.array_equal(one, other[blocks]) for one, other in columns):
        raise FormatError("the index of its segment has other blocks")


def _kind(error: StorageError) -> str:
    return "version" if isinstance(error.__cause__, AnotherVersion) else "corrupt"
