"""What a Notifier promises, asked of the fake and of systemd's protocol, with and without someone who listens."""

import socket

import pytest

from edged.adapters.host.systemd import Systemd
from edged.adapters.memory.notifier import Notices
from edged.ports import Notifier


@pytest.fixture(params=["notices", "nobody", "listening", "gone"])
def notifier(request, tmp_path):
    path = tmp_path / "notify"
    if request.param == "notices":
        yield Notices(watchdog_s=30.0)
    elif request.param == "listening":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(path))
            yield Systemd({"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "30000000"})
    else:
        yield Systemd({"NOTIFY_SOCKET": str(path)} if request.param == "gone" else {})


def test_no_notice_raises(notifier: Notifier, log_lines):
    for _ in range(2):
        notifier.ready()
        notifier.status("a line\nand another \udc80")
        notifier.watchdog()
        notifier.stopping()


def test_a_watchdog_is_a_time_or_nobody(notifier: Notifier):
    assert notifier.watchdog_s is None or notifier.watchdog_s > 0
