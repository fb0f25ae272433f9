"""What is freed goes back to the kernel."""

import ctypes

import numpy as np
import pytest

from edged.adapters.host.allocator import return_freed_memory

SIZE = 1 << 20
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
    assert return_freed_memory()
    for _ in range(3):
        before = mapped_bytes()
        held = np.empty(SIZE, np.uint8)
        assert mapped_bytes() >= before + SIZE
        del held
        assert mapped_bytes() == before


def test_a_c_library_that_has_no_such_settings_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert not return_freed_memory()
