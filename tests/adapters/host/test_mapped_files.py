"""Pages of libraries go back, and nothing that a process has changed."""

import ctypes
import hashlib
import mmap
import re
from pathlib import Path

import numpy as np

from edged.adapters.host.mapped_files import give_back_files


def resident_of_files() -> int:
    """Bytes that are files' own, of what may be read or run."""
    found = re.findall(
        r"(?m)^[0-9a-f-]+ r-[x-]p \S+ \S+ \d+ +/.*\n(?:\w+:.*\n)*?Rss: +(\d+) kB\n(?:\w+:.*\n)*?Anonymous: +(\d+) kB",
        Path("/proc/self/smaps").read_text(),
    )
    return sum(int(rss) - int(anonymous) for rss, anonymous in found) << 10


def test_most_of_the_libraries_goes_back_and_they_work_on():
    a = np.arange(12.0).reshape(3, 4)
    product, digest = a @ a.T, hashlib.sha256(b"x").hexdigest()
    before = resident_of_files()
    give_back_files()
    assert resident_of_files() < before / 2
    assert (a @ a.T == product).all()
    assert hashlib.sha256(b"x").hexdigest() == digest


def test_what_a_process_has_changed_stays_as_it_is(tmp_path):
    """As in the pages of a library that the loader has relocated: private, and not to be written to any more."""
    file = tmp_path / "library"
    file.write_bytes(bytes(2 * mmap.PAGESIZE))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY) as mapping:
        mapping[0] = 1
        protect(mapping)
        give_back_files()
        assert mapping[0] == 1


def protect(mapping):
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(len(mapping)), mmap.PROT_READ) == 0


def test_where_the_kernel_does_not_tell_nothing_is_given_back(monkeypatch):
    def refuse(_):
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    give_back_files()
