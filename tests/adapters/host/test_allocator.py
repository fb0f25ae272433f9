"""What is freed goes back to the kernel."""

import ctypes
import gc
import os
import subprocess
import sys

import psutil
import pytest

from edged.adapters.host.allocator import give_back, keep_heap_small, without_collections

FIELDS = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)  # fmt: skip


class MallInfo2(ctypes.Structure):
    """glibc's struct mallinfo2 (malloc.h)."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


PROGRAM = """
import numpy as np
from edged.adapters.host.allocator import keep_heap_small
from tests.adapters.host.test_allocator import mapped_bytes
if {is_set}:
    keep_heap_small()
for _ in range(2):
    before = mapped_bytes()
    held = np.empty(4 << 20, np.uint8)
    print(mapped_bytes() - before >= 4 << 20)
    del held
"""


def run_program(program: str) -> list[str]:
    """The words that it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("ARROW_DEFAULT_MEMORY_POOL", None)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, check=True, text=True, env=environment).stdout.split()


def mapped_bytes() -> int:
    """Bytes in blocks that are mappings of their own, and so go back when they are freed."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallInfo2
    return int(mallinfo2().hblkhd)


@pytest.mark.parametrize(("is_set", "second"), [(True, "True"), (False, "False")])
def test_a_large_block_is_a_mapping_of_its_own_also_after_another_one_was_freed(is_set, second):
    """By itself glibc raises the size for that to the largest block that was freed. In a heap of its own."""
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("the C library is not glibc 2.33 or newer")
    assert run_program(PROGRAM.format(is_set=is_set)) == ["True", second]


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


def test_what_arrow_frees_goes_back_like_anything_else():
    """Its own allocator keeps for each thread what that has freed, and only that thread can give it back."""
    program = "import pyarrow\nprint(pyarrow.default_memory_pool().backend_name)"
    by_itself, set_up = (
        run_program(f"{first}\n{program}")
        for first in ("", "from edged.adapters.host.allocator import keep_heap_small; keep_heap_small()")
    )
    assert by_itself != set_up == ["system"]


def test_a_c_library_that_has_no_such_settings_is_left_as_it_is(monkeypatch):
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", "system")  # which is set for what comes later
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert not keep_heap_small()
    give_back()


def test_nothing_is_collected_inside_and_afterwards_it_is_as_before():
    with without_collections():
        assert not gc.isenabled()
        with without_collections():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
