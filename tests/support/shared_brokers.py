"""What the workers of one test run share: a broker of each kind, and the cores.

The run's main process starts a broker when the first worker asks for it, and ends it at the run's end; should it be
killed, the kernel ends the broker. Workers find the run by an environment variable that they inherit.
"""

import contextlib
import fcntl
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Protocol, Self

from tests.support.brokers import Apache, Embedded
from tests.support.hdfs import Hdfs
from tests.support.secured import SecuredApache, SecuredKafka

_RUN = "EDGED_TEST_RUN"
_FAILED = b"failed: "


class _Server(Protocol):
    """What is started once for all."""

    def about(self) -> Mapping[str, str]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_exc: object) -> None: ...


def _moto() -> _Server:
    from tests.support.s3 import Moto  # noqa: PLC0415 - its client is not everywhere

    return Moto()


def _versitygw() -> _Server:
    from tests.support.s3 import Versitygw  # noqa: PLC0415 - see above

    return Versitygw()


_KINDS: dict[str, Callable[[], _Server]] = {
    "embedded": Embedded,
    "apache": Apache,
    "secured": SecuredApache,
    "hdfs": Hdfs,
    "moto": _moto,
    "versitygw": _versitygw,
}


@dataclass(frozen=True)
class SharedBroker:
    """A running broker of the whole run's."""

    port: int

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"


def shared_broker(kind: str) -> SharedBroker:
    """The run's broker or other server, by its kind; it is started if nobody has asked for it before."""
    return SharedBroker(int(_about(kind)["port"]))


def shared_secured_kafka() -> SecuredKafka:
    """The run's broker that grants nothing by itself."""
    return SecuredKafka(_about("secured"))


def _about(kind: str) -> Mapping[str, str]:
    with Client(str(_folder() / "brokers"), "AF_UNIX") as connection:
        connection.send_bytes(kind.encode())
        answer = connection.recv_bytes()
    if answer.startswith(_FAILED):
        raise RuntimeError(f"{kind} broker {answer.decode()}")
    about: Mapping[str, str] = json.loads(answer)
    return about


@contextlib.contextmanager
def cores(*, alone: bool) -> Iterator[None]:
    """Entered by each test of the run: at the same time as others, or `alone`, when no other test is inside."""
    with (_folder() / "cores").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def _folder() -> Path:
    return Path(os.environ[_RUN])


class TestRun:
    """The run, in its main process. `close` ends it."""

    __test__ = False

    def __init__(self) -> None:
        # Below /tmp, whatever TMPDIR is: the name of a socket has at most some 100 bytes.
        self._folder = tempfile.TemporaryDirectory(prefix="edged-tests-", dir="/tmp")
        os.environ[_RUN] = self._folder.name
        self._listener = Listener(str(_folder() / "brokers"), "AF_UNIX")
        self._brokers: dict[str, _Server] = {}
        # A broker dies with the thread that has started it.
        self._thread = threading.Thread(target=self._serve, name="brokers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with Client(str(_folder() / "brokers"), "AF_UNIX") as connection:
            connection.send_bytes(b"")
        self._thread.join()
        self._listener.close()
        self._folder.cleanup()
        del os.environ[_RUN]

    def _serve(self) -> None:
        with contextlib.ExitStack() as running:
            while True:
                with self._listener.accept() as connection:
                    kind = connection.recv_bytes().decode()
                    if not kind:
                        return
                    connection.send_bytes(self._answer(kind, running))

    def _answer(self, kind: str, running: contextlib.ExitStack) -> bytes:
        try:
            if kind not in self._brokers:
                self._brokers[kind] = running.enter_context(_KINDS[kind]())
        except Exception as error:  # noqa: BLE001 - raised again in the worker that asked
            return _FAILED + str(error).encode()
        return json.dumps(self._brokers[kind].about()).encode()
