"""The counters are this machine's, and unreadable ones are None, not fatal."""

import resource
from types import SimpleNamespace

import psutil
import pytest

from edged.adapters.host.counters import PsutilHost


@pytest.fixture
def sys_folder(tmp_path):
    """A sysfs to which a test writes what it needs."""

    def write(path, text):
        file = tmp_path / "sys" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    write("nothing", "")
    return tmp_path / "sys", write


def test_work_of_the_process_shows_in_its_cpu_time_and_the_machines(tmp_path):
    host = PsutilHost(tmp_path)
    before = now = host.sample()
    assert before.cpu_s is not None
    while now.process_cpu_s < before.process_cpu_s + 0.05:
        sum(range(100_000))
        now = host.sample()
    assert now.cpu_s is not None
    assert now.cpu_s > before.cpu_s


def test_allocated_memory_is_resident_and_remains_the_peak(tmp_path):
    host = PsutilHost(tmp_path)
    before = host.sample().rss_bytes
    held = bytes(b"x" * (64 << 20))
    peak = host.sample()
    assert peak.rss_bytes >= before + len(held) * 3 // 4
    del held
    assert host.sample().peak_rss_bytes >= peak.rss_bytes


def test_free_space_is_that_of_the_folders_file_system(tmp_path):
    free_bytes = PsutilHost(tmp_path).sample().disk_free_bytes
    assert free_bytes is not None
    assert free_bytes > 0
    assert PsutilHost(tmp_path / "not there").sample().disk_free_bytes is None


def test_the_loopback_device_counts_only_when_asked_for(tmp_path, monkeypatch):
    def counters(*, pernic):
        assert pernic
        bytes_of = {"lo": (100, 100), "eth0": (1, 2), "wlan0": (10, 20)}
        return {name: SimpleNamespace(bytes_sent=sent, bytes_recv=got) for name, (sent, got) in bytes_of.items()}

    monkeypatch.setattr(psutil, "net_io_counters", counters)
    alone, all_tiers = PsutilHost(tmp_path).sample(), PsutilHost(tmp_path, loopback=True).sample()
    assert (alone.net_sent_bytes, alone.net_received_bytes) == (11, 22)
    assert (all_tiers.net_sent_bytes, all_tiers.net_received_bytes) == (111, 122)


def test_the_temperature_is_the_processors(tmp_path, sys_folder):
    folder, write = sys_folder
    write("class/thermal/thermal_zone0/type", "nvme-thermal\n")
    write("class/thermal/thermal_zone0/temp", "33000\n")
    write("class/thermal/thermal_zone1/type", "cpu-thermal\n")
    write("class/thermal/thermal_zone1/temp", "61234\n")
    assert PsutilHost(tmp_path, sys_folder=folder).sample().temperature_c == 61.234


def test_throttling_is_read_where_the_firmware_reports_it(tmp_path, sys_folder):
    folder, write = sys_folder
    write("devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    assert PsutilHost(tmp_path, sys_folder=folder).sample().throttled_flags == 0x50005


def test_a_machine_without_sensors_has_none_of_their_counters(tmp_path, sys_folder):
    sample = PsutilHost(tmp_path, sys_folder=sys_folder[0]).sample()
    assert sample.temperature_c is None
    assert sample.throttled_flags is None


def test_a_failing_sensor_gives_none(tmp_path, sys_folder):
    folder, write = sys_folder
    write("class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write("class/thermal/thermal_zone0/temp", "n/a\n")
    assert PsutilHost(tmp_path, sys_folder=folder).sample().temperature_c is None


@pytest.mark.parametrize(
    "error", [PermissionError(13, "denied"), psutil.AccessDenied(), NotImplementedError(), RuntimeError()]
)
def test_counters_hidden_by_a_sandbox_are_none(tmp_path, monkeypatch, error):
    def hidden(**_):
        raise error

    for name in ("cpu_times", "virtual_memory", "disk_io_counters", "net_io_counters"):
        monkeypatch.setattr(psutil, name, lambda *_, **__: hidden())
    sample = PsutilHost(tmp_path).sample()
    assert sample.rss_bytes > 0
    assert (sample.cpu_s, sample.memory_used_bytes, sample.disk_read_bytes, sample.net_sent_bytes) == (None,) * 4


def test_a_process_that_can_open_no_more_files_is_counted_as_far_as_is_known(tmp_path):
    host = PsutilHost(tmp_path)
    before = host.sample()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        now = host.sample()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (now.rss_bytes, now.memory_used_bytes) == (before.rss_bytes, None)
    assert now.process_cpu_s >= before.process_cpu_s
    assert now.peak_rss_bytes >= before.peak_rss_bytes


def test_a_machine_without_disks_has_no_disk_counters(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    assert PsutilHost(tmp_path).sample().disk_written_bytes is None
