"""A link's length: a process that carries packets between pairs of TAP devices, each of them that much later.

Run: python -m tests.bench.delay SECONDS NAME=NAME …, which makes those devices. They are gone when it ends, and it ends
with its standard input. For kernels without netem; how wide a link is, is not its subject. What waits is bounded: while
so much does, it reads nothing, and the devices' own queues drop what is too much for them.

Packets come and go as they are within the kernel, with what a network card would do still undone: up to 64 KiB for TCP
to cut, and no checksums. Each costs some 50 µs all the same, so that large ones are better.
"""

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_TAP = 0x0002 | 0x1000 | 0x4000
"""IFF_TAP, IFF_NO_PI; IFF_VNET_HDR: before each packet stands what is still to be done."""
_UNDONE = 0x01 | 0x02 | 0x04
"""TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6."""

_PACKET_BYTES = 1 << 17
"""A packet is no larger."""
_MAX_WAITING = 1024
"""Packets."""
_PRIORITY = 10


class Relay:
    """The process, with pairs of devices. A context manager; entering raises OSError where that is not permitted."""

    def __init__(self, pairs: Iterable[tuple[str, str]], delay_s: float) -> None:
        names = (f"{one}={other}" for one, other in pairs)
        self._command = [sys.executable, "-m", "tests.bench.delay", str(delay_s), *names]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,  # Ctrl-C is not for a link: those who use it end first
        )  # fmt: skip
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if answer != "ready\n":
            self.__exit__()
            raise OSError(f"no TAP devices: {answer.strip()}")
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.communicate()


def carry(pairs: Iterable[tuple[int, int]], delay_s: float, until: int) -> None:
    """Between these devices, until the file `until` can be read."""
    opposite = {one: other for pair in pairs for one, other in (pair, pair[::-1])}
    delay_ns, sources = round(1e9 * delay_s), [until, *opposite]
    waiting: deque[tuple[int, int, bytes]] = deque()  # all wait equally long: the first that came goes first
    buffer = memoryview(bytearray(_PACKET_BYTES))
    while True:
        wait_s = max(waiting[0][0] - time.monotonic_ns(), 0) / 1e9 if waiting else None
        # Not epoll, which waits whole milliseconds.
        ready, _, _ = select.select(sources if len(waiting) < _MAX_WAITING else [until], (), (), wait_s)
        if until in ready:
            return
        due = time.monotonic_ns() + delay_ns
        waiting.extend((due, opposite[device], bytes(buffer[: os.readv(device, [buffer])])) for device in ready)
        while waiting and waiting[0][0] <= time.monotonic_ns():
            _, device, packet = waiting.popleft()
            with contextlib.suppress(OSError):  # one that is not up, yet or any more
                os.write(device, packet)


def _tap(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP))
    fcntl.ioctl(device, _TUNSETOFFLOAD, _UNDONE)
    return device


def _be_punctual() -> None:
    Path("/proc/self/timerslack_ns").write_text("1")
    with contextlib.suppress(PermissionError):  # then other processes may make it late
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))


def main(arguments: Sequence[str]) -> None:
    """Make the devices, say so or why not, and carry."""
    delay_s, *names = arguments
    try:
        pairs = [(_tap(one), _tap(other)) for one, other in (name.split("=") for name in names)]
    except OSError as error:
        print(error, flush=True)  # noqa: T201 - who started it waits for this line
        return
    _be_punctual()
    print("ready", flush=True)  # noqa: T201 - who started it waits for this line
    carry(pairs, float(delay_s), sys.stdin.fileno())


if __name__ == "__main__":
    main(sys.argv[1:])
