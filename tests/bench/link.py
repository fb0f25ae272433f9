"""A slow link: a TCP proxy in a process of its own that lets so many bytes a second through in each direction.

Run: python -m tests.bench.link LISTEN_PORT TARGET_PORT BYTES_PER_S DELAY_S. All connections share the rate. What waits
for its turn is buffered by the sockets alone, and slows the sender; what had it comes out that much later. Each line on
its standard input is answered by the bytes let through so far, up and down; it ends with that input.
"""

import asyncio
import os
import selectors
import subprocess
import sys
from typing import NamedTuple, Self

_CHUNK = 16 * 1024
_MAX_BURST_S = 0.05
"""Of unused rate that is made up for."""
_MAX_UNDERWAY = 16
"""Chunks: more than a slow link holds."""


class Traffic(NamedTuple):
    """Bytes let through since the link was there: to the target, and from it."""

    up: int
    down: int


class Rate:
    """Shared by all who send in one direction. `num_bytes`: what they have sent."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        self.num_bytes = 0

    async def send(self, num_bytes: int) -> None:
        """Return when these bytes have had their time on the link."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now - _MAX_BURST_S) + num_bytes / self._bytes_per_s
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)
        self.num_bytes += num_bytes


Underway = asyncio.Queue[tuple[float, bytes]]
"""When each chunk arrives; an empty one is the last."""


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: Rate, delay_s: float) -> None:
    """Everything from one end to the other, at the rate, and then so much later."""
    underway = Underway(_MAX_UNDERWAY)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_depart(reader, rate, delay_s, underway))
            group.create_task(_arrive(underway, writer))
    except* ConnectionError:
        pass  # one end has gone: so does the other
    finally:
        writer.close()


async def _depart(reader: asyncio.StreamReader, rate: Rate, delay_s: float, underway: Underway) -> None:
    chunk = None
    while chunk != b"":
        chunk = await reader.read(_CHUNK)
        await rate.send(len(chunk))
        await underway.put((asyncio.get_running_loop().time() + delay_s, chunk))


async def _arrive(underway: Underway, writer: asyncio.StreamWriter) -> None:
    while True:
        due, chunk = await underway.get()
        if (left := due - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left)
        if not chunk:
            return
        writer.write(chunk)
        await writer.drain()


async def serve(port: int, target: int, bytes_per_s: float, delay_s: float) -> None:
    """Until the standard input ends."""
    up, down = Rate(bytes_per_s), Rate(bytes_per_s)

    def answer() -> None:
        if not os.read(sys.stdin.fileno(), _CHUNK):
            raise SystemExit
        print(up.num_bytes, down.num_bytes, flush=True)  # noqa: T201 - the answer is the output

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", target, limit=_CHUNK)
        await asyncio.gather(forward(reader, broker_writer, up, delay_s), forward(broker_reader, writer, down, delay_s))

    server = await asyncio.start_server(connect, "127.0.0.1", port, limit=_CHUNK)
    asyncio.get_running_loop().add_reader(sys.stdin, answer)
    print("ready", flush=True)  # noqa: T201 - who started it waits for this line
    await server.serve_forever()


class Link:
    """The proxy as a child process. A context manager."""

    def __init__(self, port: int, target: int, bytes_per_s: float, delay_s: float = 0.0) -> None:
        numbers = (port, target, bytes_per_s, delay_s)
        self._command = [sys.executable, "-m", "tests.bench.link", *map(str, numbers)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._line() != b"ready\n":
            raise RuntimeError("the link did not start")
        return self

    def traffic(self) -> Traffic:
        """What has passed so far; blocks for about a millisecond."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return Traffic(*map(int, self._line().split()))

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.communicate()


def _punctual_loop() -> asyncio.AbstractEventLoop:
    """By default it waits whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_punctual_loop) as runner:
        runner.run(serve(int(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:5])))
