"""What is freed goes back to the kernel."""

import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from edged.adapters.host.allocator import give_back, keep_heap_small

SIZE = 24 << 20
"""More than any free block in the heap of a process that has run other tests; glibc raises its size up to 32 MiB."""
FIELDS = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)  # fmt: skip


class MallInfo2(ctypes.Structure):
    """glibc's struct mallinfo2 (malloc.h)."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


def mapped_bytes() -> int:
    """Bytes in blocks that are mappings of their own, and so go back when they are freed."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallInfo2
    return int(mallinfo2().hblkhd)


def test_a_large_block_is_a_mapping_of_its_own_also_after_another_one_was_freed():
    """By itself glibc raises the size for that to the largest block that was freed."""
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("the C library is not glibc 2.33 or newer")
    assert keep_heap_small()
    for _ in range(3):
        before = mapped_bytes()
        held = np.empty(SIZE, np.uint8)
        assert mapped_bytes() >= before + SIZE
        del held
        assert mapped_bytes() == before


def test_the_pages_between_blocks_that_stay_are_given_back():
    """By themselves they stay: glibc gives back the heap's end alone."""
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library is not glibc")
    blocks = [bytearray(b"x" * 2000) for _ in range(20_000)]
    stay = blocks[::100]
    full = psutil.Process().memory_info().rss
    del blocks
    give_back()
    assert full - psutil.Process().memory_info().rss > 20 << 20
    assert len(stay) == 200


def test_arrow_gives_back_what_it_keeps(monkeypatch):
    """It need not be loaded, and is not for this."""
    released = []
    pool = SimpleNamespace(release_unused=lambda: released.append(True))
    monkeypatch.setitem(sys.modules, "pyarrow", SimpleNamespace(default_memory_pool=lambda: pool))
    give_back()
    assert released == [True]


def test_a_c_library_that_has_no_such_settings_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert not keep_heap_small()
    give_back()
