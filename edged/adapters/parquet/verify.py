"""Verifies the archive's files: reads every block again and reports what is wrong."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet.folder import (
    ASIDE_FOLDER,
    ASIDE_NAME,
    FILE_NAME,
    LEFTOVER_NAME,
    ArchiveFolder,
    File,
    is_file,
    translated,
)
from edged.adapters.parquet.footers import read_footer
from edged.domain.samples.pack import Pack, of_columns
from edged.errors import AnotherVersion, FormatError, StorageError


class Finding(NamedTuple):
    """A problem that `verify` found.

    `kind`: corrupt, version (another one), hole, overlap, aside, foreign, or refused by the border rule.
    """

    kind: str
    path: str
    detail: str


Check = Callable[[int, Pack], Iterable[str]]
"""What is wrong with the samples of a block, by its offset. Raises FormatError for a block that is none."""


def verify_source(folder: ArchiveFolder, stream: str, source: str, check: Check) -> Iterator[Finding]:
    """What is wrong with the source's files. Known gaps are not: summaries count them."""
    path = folder.path(stream, source)
    try:
        entries = folder.entries(path)
    except StorageError as error:
        yield Finding("foreign", path, str(error).removeprefix(f"{path} "))
        return
    files_here = {name for name, entry in entries.items() if is_file(entry)}
    for name in sorted(entries):
        yield from _judge_name(folder, f"{path}/{name}", name, is_file=name in files_here)
    files = folder.files(stream, source)
    end = files[0].first if files else 0
    for file in files:
        if file.first > end:
            yield Finding("hole", file.path, f"offsets {end} to {file.first - 1} are in no file")
        if file.first < end:
            yield Finding("overlap", file.path, f"offsets {file.first} to {end - 1} are in the file before, too")
        end = file.next
        yield from _verify_file(folder, file, check)
    counted = {file.path for file in files}
    for name in sorted(filter(FILE_NAME.fullmatch, files_here)):
        if f"{path}/{name}" not in counted:
            yield Finding("overlap", f"{path}/{name}", "all its offsets are in other files, too")


def _judge_name(folder: ArchiveFolder, path: str, name: str, *, is_file: bool) -> Iterator[Finding]:
    """What is beside the source's files."""
    if ASIDE_NAME.fullmatch(name):
        yield Finding("aside", path, "was damaged, and is archived again; delete it if you need it not")
    elif name == ASIDE_FOLDER and not is_file:
        for record in sorted(folder.entries(path)):
            yield Finding(
                "aside", f"{path}/{record}", "a record as it came, not archived; delete it if you need it not"
            )
    elif not (is_file and FILE_NAME.fullmatch(name)) and not LEFTOVER_NAME.fullmatch(name):
        yield Finding("foreign", path, "not a file of the archive")


def _verify_file(folder: ArchiveFolder, file: File, check: Check) -> Iterator[Finding]:
    try:
        with translated(file.path), folder.open(file) as raw:
            parquet_file.check_digest(raw)
            raw.seek(0)
            footer = read_footer(raw, file)
            contents = footer.contents
            for block in range(len(contents.offsets)):
                pack = of_columns(parquet_file.read_block(raw, footer, block))
                if (len(pack.samples), pack.num_bytes) != (contents.rows[block], contents.num_bytes[block]):
                    raise FormatError(f"block {contents.offsets[block]} is not as large as the footer says")
                for detail in check(int(contents.offsets[block]), pack):
                    yield Finding("refused", file.path, detail)
    except StorageError as error:
        kind = "version" if isinstance(error.__cause__, AnotherVersion) else "corrupt"
        yield Finding(kind, file.path, str(error).removeprefix(f"{file.path}: "))
