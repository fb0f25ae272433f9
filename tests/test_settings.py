"""Folders follow systemd, else the XDG specification; deadlines keep their promises to each other."""

import os
from pathlib import Path

import pytest

from edged.errors import ConfigError
from edged.settings import Folders, Timing


@pytest.mark.parametrize(
    ("environment", "state", "cache"),
    [
        pytest.param(
            {"STATE_DIRECTORY": "/var/lib/edged", "CACHE_DIRECTORY": "/var/cache/edged", "HOME": "/home/u"},
            "/var/lib/edged/pi-a",
            "/var/cache/edged/pi-a",
            id="systemd",
        ),
        pytest.param(
            {"HOME": "/home/u"}, "/home/u/.local/state/edged/pi-a", "/home/u/.cache/edged/pi-a", id="XDG's defaults"
        ),
        pytest.param(
            {"HOME": "/home/u", "XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c"},
            "/s/edged/pi-a",
            "/c/edged/pi-a",
            id="XDG",
        ),
        pytest.param(
            {"HOME": "/home/u", "XDG_STATE_HOME": "relative", "XDG_CACHE_HOME": "", "STATE_DIRECTORY": ""},
            "/home/u/.local/state/edged/pi-a",
            "/home/u/.cache/edged/pi-a",
            id="empty and relative ones do not count",
        ),
        pytest.param(
            {"HOME": "/home/u", "STATE_DIRECTORY": "/var/lib/edged"},
            "/var/lib/edged/pi-a",
            "/home/u/.cache/edged/pi-a",
            id="the companion's: a state folder alone",
        ),
        pytest.param({}, "/.local/state/edged/pi-a", "/.cache/edged/pi-a", id="nothing known"),
    ],
)
def test_a_node_has_its_own_folder(environment, state, cache):
    assert Folders.of("pi-a", environment) == Folders(Path(state), Path(cache))


def test_the_process_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("STATE_DIRECTORY", "/given")
    assert Folders.of("pi-a").state == Path("/given/pi-a")


@pytest.mark.parametrize(
    ("environment", "sample_s"),
    [
        ({}, 1.0),
        ({"NOTIFY_SOCKET": "/run/systemd/notify"}, 60.0),
        ({"NOTIFY_SOCKET": ""}, 1.0),
        ({"NOTIFY_SOCKET": "/run/systemd/notify", "EDGED_TIMING": '{"sample_s": 0.2}'}, 0.2),
        ({"INVOCATION_ID": "0" * 32, "JOURNAL_STREAM": "9:12345"}, 1.0),  # a terminal that systemd has started
    ],
)
def test_a_service_logs_its_series_once_a_minute(environment, sample_s):
    assert Timing.of(environment).sample_s == sample_s


def test_so_is_one_whose_log_goes_to_the_journal(tmp_path, monkeypatch):
    with (tmp_path / "journal").open("w") as journal:
        status = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        monkeypatch.setattr("sys.stderr", journal)
        assert Timing.of({}) == Timing(sample_s=60.0, report_s=60.0)


def test_silence_is_reported_within_ten_seconds():
    assert Timing().kafka_deadline_s < 10


def test_each_named_job_has_a_folder_of_its_own():
    folders = Folders(Path("/state"), Path("/cache"))

    assert folders.of_job("small") == Path("/state/jobs/small")
    assert folders.of_job("") == Path("/state")


def test_a_developer_may_change_the_timing():
    assert Timing.of({}) == Timing.of({"EDGED_TIMING": ""}) == Timing()
    assert Timing.of({"EDGED_TIMING": '{"sample_s": 0.2, "poll_s": 2}'}) == Timing(sample_s=0.2, poll_s=2)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("{", "no JSON: "),
        ("[1]", "no JSON object"),
        ('{"sample": 1}', '"sample" is none of kafka_deadline_s, poll_s, '),
        ('{"sample_s": 0}', "sample_s is no number of seconds from 0.001 to 86400"),
        ('{"sample_s": 1e300}', "sample_s is no number of seconds from 0.001 to 86400"),
        ("[" * 100_000, "no JSON"),
        ('{"sample_s": true}', "sample_s is no number of seconds from 0.001 to 86400"),
        ('{"sample_s": "1"}', "sample_s is no number of seconds from 0.001 to 86400"),
        ('{"sample_s": Infinity}', "sample_s is no number of seconds from 0.001 to 86400"),
        ('{"sample_s": NaN}', "sample_s is no number of seconds from 0.001 to 86400"),
    ],
)
def test_a_wrong_timing_is_refused_with_its_reason(given, reason):
    with pytest.raises(ConfigError) as refusal:
        Timing.of({"EDGED_TIMING": given})
    assert f"EDGED_TIMING: {reason}" in str(refusal.value)
