"""Gives freed memory back to the system, so that a process does not grow for as long as it runs.

glibc raises by itself the size from which a block is a mapping of its own, to that of the largest one that was freed.
Then the buffers of fetches, packs and batches lie in the heap, between small blocks that stay, and what is free between
those never goes back to the kernel. Here the size stays as glibc begins with it, and threads share few heaps. What is
left is given back now and then: pages of the heap, and the objects that Python keeps for the next of their kind, which
it lets go of in a full collection alone, and those become rare in a process of many objects. Arrow brings an allocator
of its own, which keeps what each thread has freed until that thread allocates again; it takes the C library's here.
"""

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h

_LARGE_BYTES = 128 << 10
"""glibc's first values of both thresholds."""

_NUM_ARENAS = 2
"""As in the units. Threads allocate while they hold Python's lock, nearly always: more heaps save them little."""


def keep_heap_small() -> bool:
    """Set it up for this process; before it starts threads or loads Arrow. Whether the C library knows of this."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # macOS, musl
        return False
    wanted = {_M_MMAP_THRESHOLD: _LARGE_BYTES, _M_TRIM_THRESHOLD: _LARGE_BYTES, _M_ARENA_MAX: _NUM_ARENAS}
    return all(mallopt(name, value) for name, value in wanted.items())


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Inside, nothing is collected. For imports: a tenth of their time is collections, which find next to nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def exempt_from_collections() -> None:
    """Leave out of all later collections what there is now: the modules, which stay, are nearly all objects."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Give back what is free. Takes a few milliseconds; in the event loop's thread, whose objects it may end."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
