"""The lanes' blocked time, held to the kernel's count."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edged.adapters.host.lane_clock import KernelLaneClock

TASKS = Path("/proc/self/task")

pytestmark = pytest.mark.skipif(not TASKS.exists(), reason="Linux alone counts the time of threads")


def compute(seconds):
    """Be running, or ready to run, until the thread has computed for so long; returns for how long that was."""
    begun_s, end_s = time.monotonic(), time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass
    return time.monotonic() - begun_s


def blocked_s(lanes):
    seconds = lanes.blocked_s()
    assert seconds is not None
    return seconds


def busy_s(thread):
    return sum(map(int, (TASKS / str(thread) / "schedstat").read_text().split()[:2])) / 1e9


def test_blocked_is_what_the_kernel_counts_as_neither_running_nor_waiting_for_a_core():
    """As exactly as it can be read: whoever reads may have to wait for a core itself."""
    lanes = KernelLaneClock(2)

    def read():
        begun_s, measured_s, busy = time.monotonic(), blocked_s(lanes), sum(map(busy_s, threads))
        ended_s = time.monotonic()
        return begun_s, measured_s, ended_s - busy / 2, ended_s

    with ThreadPoolExecutor(2, initializer=lanes.register) as executor:
        both = threading.Barrier(2)
        threads = list(executor.map(lambda _: (both.wait(), threading.get_native_id())[1], range(2)))
        begin = read()
        computed_s = executor.submit(compute, 0.2).result()  # one computes, the other is blocked
        end = read()
    _, measured_s, counted_s, wall_s = (after - before for before, after in zip(begin, end, strict=True))
    inexact_s = sum(ended_s - begun_s for begun_s, *_, ended_s in (begin, end)) + 0.005
    assert measured_s == pytest.approx(counted_s, abs=inexact_s)
    assert (
        0.4 * wall_s < measured_s < wall_s - computed_s / 2 + inexact_s
    )  # the other may have been about to be blocked


def test_a_lane_that_has_not_begun_is_blocked():
    lanes = KernelLaneClock(2)
    before_s = blocked_s(lanes)
    compute(0.05)
    assert blocked_s(lanes) - before_s >= 0.05


def test_what_cannot_be_read_is_unknown(tmp_path):
    assert KernelLaneClock(1, tmp_path).blocked_s() is None


def test_an_unknown_form_is_unknown(tmp_path):
    (tmp_path / str(threading.get_native_id())).mkdir()
    (tmp_path / str(threading.get_native_id()) / "schedstat").write_text("0 0\n")
    assert KernelLaneClock(1, tmp_path).blocked_s() is None
