"""The contract of ports.LaneClock, tested on the fake and on the kernel's count."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edged.adapters.host.lane_clock import KernelLaneClock
from edged.adapters.memory.lane_clock import ScriptedLaneClock

needs_the_count = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="Linux alone counts the time of threads"
)


@pytest.fixture(params=["scripted", pytest.param("kernel", marks=needs_the_count)])
def lanes(request):
    if request.param == "scripted":
        yield ScriptedLaneClock(0.5)
        return
    clock = KernelLaneClock(1)
    with ThreadPoolExecutor(1, initializer=clock.register) as executor:
        executor.submit(threading.get_native_id).result()
        yield clock


def test_no_more_than_the_time_that_passes_is_blocked(lanes):
    begun_s, before_s = time.monotonic(), lanes.blocked_s()
    while time.monotonic() < begun_s + 0.02:
        pass
    after_s = lanes.blocked_s()
    assert -0.01 < after_s - before_s <= time.monotonic() - begun_s + 0.01  # the kernel counts a few ms late
