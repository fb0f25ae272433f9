"""Notifications to the service manager (sd_notify(3)): one datagram each to the socket in NOTIFY_SOCKET.

The protocol takes a few lines, so no library is used. Without NOTIFY_SOCKET every notification is a no-op. Sockets of
the vsock family, which virtual machines use from systemd 254 on, are not supported.
"""

import os
import socket
import time
from collections.abc import Mapping

from edged.log import logger


class Systemd:
    """The Notifier of a process that systemd started. A failed delivery is logged once, not raised."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = _socket_address(environment.get("NOTIFY_SOCKET", ""))
        self._watchdog_s = _watchdog_s(environment) if self._address else None
        self._failed = False

    @property
    def watchdog_s(self) -> float | None:
        return self._watchdog_s

    def ready(self) -> None:
        self._send("READY=1")

    def status(self, text: str) -> None:
        self._send("STATUS=" + " ".join(text.split()))  # a line break would start another assignment

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        # The time tells the unit's own request from an earlier one: Type=notify-reload waits for a later time.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, assignments: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as to:
                to.sendto(assignments.encode(errors="replace"), self._address)
        except OSError as error:
            if not self._failed:
                logger().warning("life.notify_failed", err=str(error))
            self._failed = True
        else:
            self._failed = False


def _socket_address(named: str) -> str | None:
    if named.startswith("/"):
        return named
    return "\0" + named[1:] if named.startswith("@") else None  # "@": the abstract namespace


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """As in sd_watchdog_enabled(3): the time applies to the process in WATCHDOG_PID, if that is set."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) > 0 else None
