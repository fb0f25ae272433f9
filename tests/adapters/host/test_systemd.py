"""Notifications reach a real socket in the format of sd_notify(3)."""

import os
import socket
import time
import uuid

import pytest

from edged.adapters.host.systemd import Systemd


@pytest.fixture(params=["path", "abstract"])
def listener(request, tmp_path):
    """A bound socket and its name in NOTIFY_SOCKET."""
    name = f"@edged-{uuid.uuid4()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as bound:
        bound.bind("\0" + name[1:] if name.startswith("@") else name)
        yield bound, name


def test_each_notification_is_one_datagram(listener):
    bound, name = listener
    systemd = Systemd({"NOTIFY_SOCKET": name})
    systemd.ready()
    systemd.status("ok, lag 0")
    systemd.watchdog()
    systemd.stopping()
    assert [bound.recv(4096) for _ in range(4)] == [
        b"READY=1",
        b"STATUS=ok, lag 0",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]


def test_a_reload_is_announced_with_its_time_in_one_datagram(listener):
    """Type=notify-reload takes no other: the time tells this reload from an earlier one."""
    bound, name = listener
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    Systemd({"NOTIFY_SOCKET": name}).reloading()
    first, second = bound.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    name, _, at = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(at) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_status_cannot_inject_another_notification(listener):
    bound, name = listener
    Systemd({"NOTIFY_SOCKET": name}).status("broker says\nSTOPPING=1\r\nMAINPID=1")
    assert bound.recv(4096) == b"STATUS=broker says STOPPING=1 MAINPID=1"


def test_without_a_socket_nothing_is_sent_or_logged(log_lines):
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}):
        systemd = Systemd({**environment, "WATCHDOG_USEC": "1000000"})
        systemd.ready()
        assert systemd.watchdog_s is None
    assert log_lines() == []


def test_an_unreachable_service_manager_is_logged_once_until_it_is_back(tmp_path, log_lines):
    path = tmp_path / "notify"
    systemd = Systemd({"NOTIFY_SOCKET": str(path)})
    for _ in range(5):
        systemd.watchdog()
    assert len(log_lines("life.notify_failed")) == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(path))
        systemd.watchdog()
        assert bound.recv(64) == b"WATCHDOG=1"
    systemd.watchdog()
    assert len(log_lines("life.notify_failed")) == 2


def test_a_service_manager_that_does_not_read_never_blocks_the_daemon(listener, log_lines):
    systemd = Systemd({"NOTIFY_SOCKET": listener[1]})
    for _ in range(10_000):
        systemd.status("x" * 80)
    assert len(log_lines("life.notify_failed")) == 1


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),  # meant for another process
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_timeout_is_systemds(environment, watchdog_s):
    assert Systemd({"NOTIFY_SOCKET": "/run/notify", **environment}).watchdog_s == watchdog_s
