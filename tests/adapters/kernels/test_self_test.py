"""What a process must compute before its kernels may."""

import ctypes
import platform
from contextlib import contextmanager

import pytest

from edged.adapters.kernels.backend import compiled
from edged.adapters.kernels.self_test import keeps_denormals
from edged.errors import KernelsUnavailable
from tests.support.kernels import required_kernels
from tests.support.requirements import require

FLUSH = {"x86_64": (7, 0x8040), "aarch64": (0, 1 << 24)}
"""By machine: which word of C's fenv_t controls the vector unit, and its bits that flush denormal numbers to zero."""


@contextmanager
def flushing():
    """This thread as it is after loading a library that was linked with -ffast-math."""
    if platform.machine() not in FLUSH:
        require(f"how {platform.machine()} is told to flush denormal numbers")
    word, bits = FLUSH[platform.machine()]
    libm = ctypes.CDLL("libm.so.6")
    before, flushed = (ctypes.c_uint32 * 16)(), (ctypes.c_uint32 * 16)()
    libm.fegetenv(before)
    libm.fegetenv(flushed)
    flushed[word] |= bits
    libm.fesetenv(flushed)
    try:
        yield
    finally:
        libm.fesetenv(before)


def test_a_thread_that_flushes_denormals_is_told_from_one_that_does_not():
    assert keeps_denormals()
    with flushing():
        assert not keeps_denormals()
    assert keeps_denormals()


def test_kernels_refuse_a_process_that_flushes_denormals():
    required_kernels()
    with flushing(), pytest.raises(KernelsUnavailable, match="flushes denormal numbers to zero: a library compiled"):
        compiled.__wrapped__()
