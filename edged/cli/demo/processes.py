"""The demo's processes: started from a command, read through their log, stopped in order.

Covers one child's life and waiting for what it logs. Does not know what the events mean.
"""

import asyncio
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from edged.adapters.embedded.server import killed_with_parent

LogLine = Mapping[str, Any]
_MAX_LINES = 4096


class ChildDied(RuntimeError):  # noqa: N818 - named for what happened
    """A child ended while something was still expected of it."""


class ChildWentOn(RuntimeError):  # noqa: N818 - named for what happened
    """A child is past the event before which something was expected of it."""


class Child(asyncio.SubprocessProtocol):
    """A running `edged` process. `lines` are its newest log lines, parsed; anything else it printed is `noise`."""

    def __init__(
        self,
        name: str,
        log_file: Path | None = None,
        on_line: Callable[[str, LogLine], object] = lambda _name, _line: None,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        self._log_file = None if log_file is None else log_file.open("ab", buffering=0)
        self.lines: deque[LogLine] = deque(maxlen=_MAX_LINES)
        self.noise: deque[str] = deque(maxlen=200)
        self.stdout = b""
        self._on_line = on_line
        self._on_end = on_end
        self._rest = b""
        self._news = asyncio.Event()
        self._ended = asyncio.Event()
        self._transport: asyncio.SubprocessTransport | None = None

    @classmethod
    async def start(
        cls,
        name: str,
        *arguments: str,
        within: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        log_file: Path | None = None,
        on_line: Callable[[str, LogLine], object] = lambda _name, _line: None,
        on_end: Callable[[], object] = lambda: None,
    ) -> Self:
        """Start `python -P -m edged ARGUMENTS`; what it writes to stderr is also appended to `log_file`.

        -P: what is installed, with its compiled kernels, also where the current folder is a checkout of it.
        `within`: the beginning of a command that becomes it by exec, as `nsenter --net=…` does.
        The kernel kills it when this process dies (on Linux).
        """
        child = cls(name, log_file, on_line, on_end)
        await asyncio.get_running_loop().subprocess_exec(
            lambda: child,
            *killed_with_parent([*within, sys.executable, "-P", "-m", "edged", *arguments]),
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        return child

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._transport is not None
        pid = self._transport.get_pid()
        assert pid is not None
        return pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative after a signal."""
        return None if self._transport is None else self._transport.get_returncode()

    async def wait_for(self, event: str, times: int = 1, *, before: str | None = None, **fields: Any) -> LogLine:
        """The first line with this event and these fields (the n-th for `times`), from the past or to come.

        `before`: an event after which it cannot come any more. Raises ChildDied when the process ends first, and
        ChildWentOn when it is past that event. Cancel-safe.
        """
        await self.until(lambda _: len(self.seen(event, **fields)) >= times, event, before=before)
        return self.seen(event, **fields)[times - 1]

    async def until(
        self,
        condition: Callable[[Iterable[LogLine]], bool],
        what: str = "it was expected to",
        *,
        before: str | None = None,
    ) -> None:
        """Wait until `condition` holds for the lines so far; otherwise as `wait_for`."""
        while not condition(self.lines):
            if self._ended.is_set():
                raise ChildDied(f"{self.name} ended (exit code {self.exit_code}) before {what}\n{self.last_words()}")
            if before is not None and self.seen(before):
                raise ChildWentOn(f"{self.name} came to {before} without {what}\n{self.last_words()}")
            self._news.clear()
            await self._news.wait()

    def seen(self, event: str, **fields: Any) -> list[LogLine]:
        """The lines so far with this event and these fields, oldest first."""
        return [line for line in self.lines if _matches(line, event, fields)]

    def last_words(self) -> str:
        """What an error report should show: the last lines that are no samples."""
        logged = [json.dumps(line) for line in self.lines if line.get("event") != "res.sample"]
        return "\n".join([*list(self.noise)[-15:], *logged[-8:]])

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens to a process that has ended."""
        if self._transport is not None and self.exit_code is None:
            self._transport.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end; the exit code."""
        await self._ended.wait()
        assert self.exit_code is not None
        return self.exit_code

    async def stop(self, deadline_s: float = 30.0) -> int:
        """SIGTERM, and SIGKILL after the deadline; the exit code. Cancellation kills at once."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(deadline_s):
                return await self.ended()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.ended()
        except asyncio.CancelledError:
            self.signal(signal.SIGKILL)
            raise

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self.stdout += data
            return
        if self._log_file is not None:
            self._log_file.write(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        for text in whole:
            self._take(text.decode(errors="replace"))
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._log_file is not None:
            self._log_file.close()
        if self._transport is not None:
            self._transport.close()
        self._ended.set()
        self._news.set()
        self._on_end()

    def _take(self, text: str) -> None:
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict):
            self.lines.append(line)
            self._on_line(self.name, line)
        elif text.strip():
            self.noise.append(text)


def _matches(line: LogLine, event: str, fields: Mapping[str, Any]) -> bool:
    return line.get("event") == event and all(line.get(key) == value for key, value in fields.items())
