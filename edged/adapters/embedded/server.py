"""A server that runs as a child process, on a loopback port, while it is entered."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Self

from edged.aio import Backoff
from edged.errors import EdgedError

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 5.0

# On Linux the kernel kills the server when this process dies, even by SIGKILL. If the parent died before prctl, the
# parent's id has changed. The launcher becomes the server by exec, so that no Python code runs between fork and exec.
_LAUNCHER = """
import ctypes, os, sys
parent, *command = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(parent):
    os.execvp(command[0], command)
"""


class ServerUnavailable(EdgedError):  # noqa: N818 - like the other errors that name a state
    """The server cannot be started here."""


class ChildServer:
    """Runs on a loopback port while it is entered. `pid` is its process.

    Entering raises ServerUnavailable when it is not installed or does not start. Leaving it, also by cancellation,
    stops the process.
    """

    def __init__(self, name: str, port: int | None = None, environment: Mapping[str, str] | None = None) -> None:
        """`environment`: more variables."""
        self._name = name
        self._environment = environment or {}
        self._port = port or free_port()
        self._process: asyncio.subprocess.Process | None = None
        self._output: IO[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "entered"
        return self._process.pid

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    async def _is_up(self) -> bool:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        _check_free(self._port)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __aexit__
        try:
            self._process = await asyncio.create_subprocess_exec(
                *killed_with_parent(self._command()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env={**os.environ, **self._environment},
                start_new_session=True,  # Ctrl-C must not reach the server: its clients stop first
            )
            await self._wait_until_up(self._process)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            await _stop(process)
        if self._output is not None:
            self._output.close()

    async def _wait_until_up(self, process: asyncio.subprocess.Process) -> None:
        backoff = Backoff(0.05, 0.5)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while not await self._is_up():
                    if process.returncode is not None:
                        raise ServerUnavailable(f"{self._name} ended at once: {self._output_text()}")
                    await backoff.wait()
        except TimeoutError as error:
            raise ServerUnavailable(f"{self._name} did not respond within {_START_TIMEOUT_S:.0f} s") from error

    def _output_text(self) -> str:
        assert self._output is not None
        self._output.seek(0)
        return self._output.read(2000).decode(errors="replace").strip()


def program(name: str, installed_by: str, more_path: str = "") -> str:
    """The program's path. Raises ServerUnavailable, which says how it is installed."""
    found = shutil.which(name) or shutil.which(name, path=more_path)
    if found is None:
        raise ServerUnavailable(f"{name} is not installed: {installed_by}")
    return found


def killed_with_parent(command: Sequence[str]) -> list[str]:
    """Wrap `command` so that it is killed when this process ends (on Linux)."""
    return [sys.executable, "-I", "-c", _LAUNCHER, str(os.getpid()), *command]


def free_port() -> int:
    """A port of the loopback address that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _check_free(port: int) -> None:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return
    except OSError as error:
        raise ServerUnavailable(f"port {port} is taken: {error}") from error


async def is_open(address: str) -> bool:
    """Whether anybody takes connections there."""
    host, port = address.split(":")
    try:
        _reader, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def _stop(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, then SIGKILL. Cancelled: kills at once, and raises when the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)  # it may be stopped
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
