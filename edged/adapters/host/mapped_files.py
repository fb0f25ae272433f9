"""Gives back the pages of libraries that a process has read by now: most serve its start alone.

They stay in the page cache, from where what is needed again comes back as it is touched; but one that a process has
mapped is among the last that the kernel drops when memory is scarce. A third of a node's resident memory at its start
are such pages: what NumPy and OpenSSL set up, symbols and relocations that the loader has read.
"""

import contextlib
import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

_MADV_DONTNEED = 4  # mman.h, of Linux

_MAPPING = re.compile(r"(?m)^([0-9a-f]+)-([0-9a-f]+) (r-[x-]p) \S+ \S+ \d+ +/.*\n((?:\w+:.*\n)+)")
_CHANGED = re.compile(r"(?m)^(?:Anonymous|Swap): +[1-9]")


def give_back_files() -> None:
    """Give back the pages of files that are mapped to be read or run, and hold nothing of this process's own."""
    with contextlib.suppress(OSError, AttributeError):  # no Linux
        madvise = ctypes.CDLL(None).madvise
        for begin, end in _unchanged():
            madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_DONTNEED)


def _unchanged() -> Iterator[tuple[int, int]]:
    """The mappings all of whose pages are their file's: that the loader has relocated in, has pages of its own."""
    for begin, end, _, fields in _MAPPING.findall(Path("/proc/self/smaps").read_text()):
        if not _CHANGED.search(fields):
            yield int(begin, 16), int(end, 16)
