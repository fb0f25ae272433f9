"""The contract of ports.Host, tested on the fake and on this machine."""

import dataclasses

import pytest

from edged.adapters.host.counters import PsutilHost
from edged.adapters.memory.host import ScriptedHost
from edged.ports import Host, HostSample

TOTALS = (
    "process_cpu_s", "cpu_s", "disk_read_bytes", "disk_written_bytes", "net_received_bytes", "net_sent_bytes",
    "peak_rss_bytes",
)  # fmt: skip


@pytest.fixture(params=["scripted", "this machine"])
def host(request, tmp_path) -> Host:
    if request.param == "this machine":
        return PsutilHost(tmp_path)
    return ScriptedHost(HostSample(float(n), 10, 10 + n, cpu_s=2.0 * n, net_sent_bytes=n) for n in range(3))


def test_numbers_are_never_negative(host):
    for value in dataclasses.astuple(host.sample()):
        assert value is None or value >= 0


def test_the_peak_is_at_least_the_resident_memory(host):
    for sample in (host.sample() for _ in range(5)):
        assert sample.peak_rss_bytes >= sample.rss_bytes > 0


def test_totals_never_fall(host):
    samples = [host.sample() for _ in range(5)]
    for name in TOTALS:
        values = [getattr(sample, name) for sample in samples]
        if None not in values:
            assert values == sorted(values), name


def test_a_readable_counter_stays_readable(host):
    first, second = host.sample(), host.sample()
    known = [{name for name, value in dataclasses.asdict(s).items() if value is not None} for s in (first, second)]
    assert known[0] == known[1]
