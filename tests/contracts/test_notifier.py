"""The contract of ports.Notifier, tested on the fake and on systemd's protocol, with and without a listener."""

import socket

import pytest

from edged.adapters.host.systemd import Systemd
from edged.adapters.memory.notifier import RecordingNotifier
from edged.ports import Notifier


@pytest.fixture(params=["recording", "no socket", "listening", "gone"])
def notifier(request, tmp_path):
    path = tmp_path / "notify"
    if request.param == "recording":
        yield RecordingNotifier(watchdog_s=30.0)
    elif request.param == "listening":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(path))
            yield Systemd({"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "30000000"})
    else:
        yield Systemd({"NOTIFY_SOCKET": str(path)} if request.param == "gone" else {})


def test_no_notification_raises(notifier: Notifier, log_lines):
    for _ in range(2):
        notifier.ready()
        notifier.status("a line\nand another \udc80")
        notifier.watchdog()
        notifier.reloading()
        notifier.stopping()


def test_the_watchdog_is_a_timeout_or_none(notifier: Notifier):
    assert notifier.watchdog_s is None or notifier.watchdog_s > 0
