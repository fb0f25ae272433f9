"""The monitor samples on a grid, feeds the watchdog while services progress, and ends a process that grew too large."""

import asyncio
import itertools

import pytest
from jsonschema import Draft202012Validator
from looptime import LoopTimeEventLoop

from edged.adapters.memory.host import ScriptedHost
from edged.adapters.memory.notifier import RecordingNotifier
from edged.errors import MemoryLimitExceeded
from edged.events import json_schema
from edged.ports import HostSample, Progress, Statistics
from edged.services.node.health import HealthBoard
from edged.services.node.monitor import Monitor
from edged.settings import Timing

pytestmark = pytest.mark.looptime

MIB = 1 << 20


def host_of(rss):
    """A host whose process has the given resident bytes, one after the other."""
    return ScriptedHost(HostSample(0.0, rss_bytes, rss_bytes) for rss_bytes in rss)


class Node:
    """A monitor and all it looks at."""

    def __init__(self, *, host=None, watchdog_s=30.0, memory_limit=None, timing=None, sample_s=None):
        self.host = host or host_of([100 * MIB])
        self.health = HealthBoard()
        self.notices = RecordingNotifier(watchdog_s)
        self.statistics = Statistics()
        self.progress = Progress(0, idle=True)
        self.monitor = Monitor(
            self.host, self.health, self.notices, lambda: self.statistics, {"train": lambda: self.progress},
            memory_limit=memory_limit, timing=timing or Timing(), sample_s=sample_s,
        )  # fmt: skip

    async def run(self, seconds):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.monitor.run()

    def sent(self, what):
        return [argument for name, argument in self.notices.sent if name == what]


async def test_each_second_is_one_sample_with_the_five_series(log_lines):
    samples = (
        HostSample(
            process_cpu_s=0.5 * second, rss_bytes=100, peak_rss_bytes=120, cpu_s=1.5 * second, memory_used_bytes=1000,
            disk_read_bytes=10 * second, disk_written_bytes=20 * second, net_received_bytes=30 * second,
            net_sent_bytes=40 * second,
        )
        for second in range(10)
    )  # fmt: skip
    node = Node(host=ScriptedHost(samples))
    node.statistics = Statistics(trained_samples=1)
    await node.run(5.5)
    lines = log_lines("res.sample")
    assert len(lines) == 5
    for line in lines:
        Draft202012Validator(json_schema()).validate(line)
        assert line["level"] == "info"
        assert (line["cpu_percent"], line["process_cpu_percent"]) == (150.0, 50.0)
        assert (line["memory_used_bytes"], line["rss_bytes"], line["peak_rss_bytes"]) == (1000, 100, 120)
        assert (line["disk_read_bytes_per_s"], line["disk_written_bytes_per_s"]) == (10.0, 20.0)
        assert (line["net_received_bytes_per_s"], line["net_sent_bytes_per_s"]) == (30.0, 40.0)
        assert line["trained_samples_per_s"] == 0.0
        assert line["loop_lag_ms"] == 0.0


def stop_the_loop(seconds):
    """Let so much time pass at once, as when something blocks the event loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, LoopTimeEventLoop)
    loop.setup_looptime(start=loop.time() + seconds)


class TimedHost(ScriptedHost):
    """Notes when it is asked, and then does something."""

    def __init__(self, then):
        super().__init__([HostSample(0.0, 1, 1)])
        self._then = then
        self.asked = []

    def sample(self):
        self.asked.append(asyncio.get_running_loop().time())
        self._then()
        return super().sample()


async def test_samples_do_not_drift_when_the_loop_is_late(log_lines):
    loop = asyncio.get_running_loop()
    node = Node(host=TimedHost(lambda: loop.call_later(0.99, stop_the_loop, 0.03)))  # just when the next one is due
    await node.run(600.5)
    assert node.host.asked == pytest.approx(range(601), abs=0.021)
    assert max(line["loop_lag_ms"] for line in log_lines("res.sample")) == 20


async def test_freed_memory_is_given_back_once_a_minute():
    node = Node(host=TimedHost(lambda: None))
    await node.run(600.5)
    assert node.host.times_given_back == 11


async def test_samples_missed_in_a_pause_are_skipped_and_the_lag_is_logged(log_lines):
    pauses_s = iter([0, 0, 7.4, *[0] * 9])  # the machine stops from second 2 on
    node = Node(host=TimedHost(lambda: stop_the_loop(next(pauses_s))))
    await node.run(12.5)
    assert node.host.asked == pytest.approx([0, 1, 2, 9.4, 10, 11, 12], abs=0.002)
    assert [line["loop_lag_ms"] for line in log_lines("res.sample")] == pytest.approx([0, 0, 6400, 0, 0, 0], abs=2)


async def test_the_series_has_a_line_as_often_as_is_asked_for_now(log_lines):
    every_s = 10.0
    node = Node(host=TimedHost(lambda: None), sample_s=lambda: every_s)
    await node.run(34.5)
    assert len(log_lines("res.sample")) == 3
    assert node.host.asked == pytest.approx(range(35))  # the memory is looked at each second all the same


async def test_a_new_interval_holds_within_a_second(log_lines):
    loop = asyncio.get_running_loop()
    node = Node(sample_s=lambda: 60.0 if loop.time() < 10 else 0.5)
    await node.run(12.2)
    assert 2 <= len(log_lines("res.sample")) <= 4
    fields = log_lines("res.sample")[-1]
    assert fields["loop_lag_ms"] == 0.0


async def test_a_line_has_the_longest_lag_since_the_last_one(log_lines):
    pauses_s = iter([0, 0, 1.3, *[0] * 40])
    node = Node(host=TimedHost(lambda: stop_the_loop(next(pauses_s))), sample_s=lambda: 10.0)
    await node.run(25)
    assert [line["loop_lag_ms"] for line in log_lines("res.sample")] == pytest.approx([300, 0], abs=2)


async def test_the_watchdog_is_fed_three_times_per_its_interval_while_services_are_idle(log_lines):
    node = Node(watchdog_s=30.0)
    await node.run(65)
    assert len(node.sent("watchdog")) == 7  # at 0, 10, … 60
    assert log_lines("res.stalled") == []


async def test_the_watchdog_is_fed_faster_than_the_samples_come_when_it_is_short():
    node = Node(watchdog_s=1.5)
    await node.run(10.2)
    assert len(node.sent("watchdog")) == 21


async def test_a_stalled_service_stops_the_feeding_and_is_logged_once(log_lines):
    node = Node(watchdog_s=30.0)
    node.progress = Progress(7, idle=False)
    await node.run(300)
    assert len(node.sent("watchdog")) == 7  # the last after one minute
    (line,) = log_lines("res.stalled")
    assert (line["level"], line["service"], line["still_s"]) == ("error", "train", 70.0)


async def test_an_outage_keeps_the_watchdog_fed():
    node = Node(watchdog_s=30.0)
    node.progress = Progress(7, idle=False)
    node.health.degraded("kafka", "no answer")
    await node.run(300)
    assert len(node.sent("watchdog")) == 30


async def test_a_stall_is_logged_without_a_watchdog_too(log_lines):
    node = Node(watchdog_s=None)
    node.progress = Progress(7, idle=False)
    await node.run(100)
    assert len(log_lines("res.stalled")) == 1


async def test_feeding_resumes_with_progress_and_the_next_stall_is_logged_again(log_lines):
    node = Node(watchdog_s=30.0)
    steps = itertools.chain([0] * 8, [1] * 20)
    node.monitor = Monitor(
        node.host,
        node.health,
        node.notices,
        lambda: node.statistics,
        {"train": lambda: Progress(next(steps), idle=False)},
    )
    await node.run(175)  # feeds at 0, 10, … 170
    assert len(node.sent("watchdog")) == 7 + 7
    assert len(log_lines("res.stalled")) == 2


async def test_the_status_line_is_updated_every_ten_seconds(log_lines):
    node = Node()
    node.statistics = Statistics(trained_samples=1280, ingested_samples=7, lag_by_topic={"cam": 3})
    await node.run(35)
    assert node.sent("status") == ["ok, trained 1280, lag 3, RSS 100 MiB"] * 4


async def test_the_status_line_of_a_degraded_node_has_the_reason_in_80_characters(log_lines):
    node = Node()
    node.statistics = Statistics(archived_samples=7)
    node.health.degraded("kafka", "broker-with-a-long-name.lan:9092 refused: certificate expired")
    await node.run(1)
    (status,) = node.sent("status")
    assert len(status) == 80
    assert status.startswith("degraded: kafka for 0 s (broker-with-")
    assert status.endswith("…, archived 7, lag 0, RSS 100 MiB")


async def test_a_process_that_stays_above_its_limit_is_ended(log_lines):
    node = Node(host=host_of([300 * MIB]), memory_limit=256 * MIB)
    with pytest.raises(MemoryLimitExceeded, match=r"300 MiB resident, more than memory_limit \(256 MiB\) for 30 s"):
        await node.monitor.run()
    assert asyncio.get_running_loop().time() == pytest.approx(31)
    (line,) = log_lines("res.memory_high")
    assert (line["rss_bytes"], line["limit_bytes"]) == (300 * MIB, 256 * MIB)


async def test_a_short_peak_is_only_logged(log_lines):
    node = Node(host=host_of([*[300 * MIB] * 29, 200 * MIB] * 20), memory_limit=256 * MIB)
    await node.run(200)
    assert len(log_lines("res.memory_high")) == 4  # at most once a minute


async def test_without_a_limit_no_memory_use_ends_the_process(log_lines):
    node = Node(host=host_of([1 << 50]))
    await node.run(100)
    assert log_lines("res.memory_high") == []
