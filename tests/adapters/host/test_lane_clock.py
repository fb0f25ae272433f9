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
    """Be running, or ready to run, until the thread has computed for so long."""
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


def blocked_s(lanes):
    seconds = lanes.blocked_s()
    assert seconds is not None
    return seconds


def busy_s(thread):
    return sum(map(int, (TASKS / str(thread) / "schedstat").read_text().split()[:2])) / 1e9


def test_blocked_is_what_the_kernel_counts_as_neither_running_nor_waiting_for_a_core():
    lanes = KernelLaneClock(2)
    with ThreadPoolExecutor(2, initializer=lanes.register) as executor:
        both = threading.Barrier(2)
        threads = list(executor.map(lambda _: (both.wait(), threading.get_native_id())[1], range(2)))
        begun_s, begun_at_s, before_s = time.monotonic(), blocked_s(lanes), sum(map(busy_s, threads))
        executor.submit(compute, 0.3).result()  # one computes, the other is blocked
        wall_s = time.monotonic() - begun_s
        counted_s = wall_s - (sum(map(busy_s, threads)) - before_s) / 2
        measured_s = blocked_s(lanes) - begun_at_s
    assert measured_s == pytest.approx(counted_s, abs=0.05)
    assert measured_s == pytest.approx(wall_s / 2, abs=0.05)


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
