"""Totals become rates; what is unknown or not done is left out."""

from edged.adapters.memory.lane_clock import ScriptedLaneClock
from edged.ports import HostSample, Statistics
from edged.services.node.resource_series import ResourceSeries


def host(**known):
    return HostSample(process_cpu_s=known.pop("process_cpu_s", 0.0), rss_bytes=10, peak_rss_bytes=20, **known)


def test_rates_are_per_second_of_the_time_that_passed():
    series = ResourceSeries(
        host(process_cpu_s=1.0, cpu_s=10.0, disk_read_bytes=0, disk_written_bytes=100, net_received_bytes=5,
             net_sent_bytes=7),
        Statistics(), 100.0,
    )  # fmt: skip
    fields = series.next(
        host(process_cpu_s=2.0, cpu_s=13.0, disk_read_bytes=1000, disk_written_bytes=100, net_received_bytes=25,
             net_sent_bytes=8),
        Statistics(), 102.0,
    )  # fmt: skip
    assert fields == {
        "process_cpu_percent": 50.0,
        "cpu_percent": 150.0,  # one and a half cores busy
        "rss_bytes": 10,
        "peak_rss_bytes": 20,
        "disk_read_bytes_per_s": 500.0,
        "disk_written_bytes_per_s": 0.0,
        "net_received_bytes_per_s": 10.0,
        "net_sent_bytes_per_s": 0.5,
    }


def test_each_call_covers_the_time_since_the_last():
    series = ResourceSeries(host(cpu_s=0.0), Statistics(), 0.0)
    series.next(host(cpu_s=1.0), Statistics(), 1.0)
    assert series.next(host(cpu_s=1.5), Statistics(), 2.0)["cpu_percent"] == 50.0


def test_unknown_fields_of_the_host_are_left_out():
    series = ResourceSeries(host(), Statistics(), 0.0)
    fields = series.next(host(cpu_s=1.0, temperature_c=50.5), Statistics(), 1.0)
    assert fields.keys() == {"process_cpu_percent", "rss_bytes", "peak_rss_bytes", "temperature_c"}
    assert "cpu_percent" in series.next(host(cpu_s=2.0), Statistics(), 2.0)


def test_a_total_that_decreases_is_no_negative_rate():
    series = ResourceSeries(host(net_sent_bytes=1000), Statistics(), 0.0)
    assert series.next(host(net_sent_bytes=10), Statistics(), 1.0)["net_sent_bytes_per_s"] == 0.0


def test_a_series_of_a_service_appears_once_it_is_not_zero():
    series = ResourceSeries(host(), Statistics(), 0.0)
    none = series.next(host(), Statistics(), 1.0)
    first = series.next(host(), Statistics(trained_samples=300, wait_s=0.25, lag_by_topic={"cam": 2, "cam-2": 7}), 2.0)
    then = series.next(host(), Statistics(trained_samples=300, wait_s=1.25), 3.0)
    assert "trained_samples_per_s" not in none
    assert (first["trained_samples_per_s"], first["wait_fraction"], first["lag_records"]) == (300.0, 0.25, 9)
    assert (then["trained_samples_per_s"], then["wait_fraction"], then["lag_records"]) == (0.0, 1.0, 0)
    assert "archived_samples_per_s" not in then


def test_the_longest_lags_are_named():
    series = ResourceSeries(host(), Statistics(), 0.0)
    of_devices, of_jobs = {f"cam-{n}": n for n in range(1, 20)}, {"cam-1": 100}
    fields = series.next(host(), Statistics(lag_by_topic=of_devices) + Statistics(lag_by_topic=of_jobs), 1.0)
    assert fields["lag_records"] == 190 + 100
    assert fields["lag_by_topic"] == {"cam-1": 101, **{f"cam-{n}": n for n in range(13, 20)}}
    assert "lag_by_topic" not in series.next(host(), Statistics(), 2.0)


def test_the_share_in_which_the_lanes_were_blocked_is_that_of_the_time_that_passed():
    now_s = 5.0
    lanes = ScriptedLaneClock(0.25, lambda: now_s)
    series = ResourceSeries(host(), Statistics(), now_s, lanes)
    now_s = 7.0
    assert series.next(host(), Statistics(), now_s)["blocked_fraction"] == 0.25
    lanes.share, now_s = None, 8.0
    assert series.next(host(), Statistics(), now_s)["blocked_fraction"] is None


def test_a_node_without_lanes_has_no_share_of_theirs():
    assert "blocked_fraction" not in ResourceSeries(host(), Statistics(), 0.0).next(host(), Statistics(), 1.0)
