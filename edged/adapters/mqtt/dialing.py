"""Opens sockets to one broker, in two threads of its own for all sessions: name lookup, TCP and TLS handshakes.

Each attempt to reach a broker that is away blocks a thread for seconds, so the process's workers are not used.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from edged.domain.topology import Mqtt, Tls

DIAL_TIMEOUT_S = 5.0
"""For TCP's handshake, and as much for TLS's."""

_THREADS = 2


Done = Callable[[socket.socket | None, Exception | None], None]


class Dialer:
    """A context manager; leaving it ends connections that are being made."""

    def __init__(self, mqtt: Mqtt) -> None:
        self._mqtt = mqtt
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="mqtt-dial")
        self._dialing: set[socket.socket] = set()
        self._is_over = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        for each in list(self._dialing):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def dial(self, done: Done) -> Callable[[], None]:
        """Connect in a thread; `done` is called in the event loop's thread with a non-blocking socket, or the error.

        Returns a function that gives up: after it, `done` is not called.
        """
        is_wanted = True

        def dialed(future: "asyncio.Future[socket.socket]") -> None:
            if is_wanted:
                _call(done, future)
            else:
                _close(future)

        def give_up() -> None:
            nonlocal is_wanted
            is_wanted = False

        asyncio.get_running_loop().run_in_executor(self._threads, self._connect).add_done_callback(dialed)
        return give_up

    def _connect(self) -> socket.socket:
        error: OSError = OSError("no address is known for this host")
        for family, kind, protocol, _name, address in socket.getaddrinfo(
            self._mqtt.host, self._mqtt.port, type=socket.SOCK_STREAM
        ):
            try:
                return self._connect_to(socket.socket(family, kind, protocol), address)
            except ssl.SSLError:
                raise
            except OSError as failure:
                error = failure
        raise error

    def _connect_to(self, made: socket.socket, address: Any) -> socket.socket:
        with self._under_way(made):
            made.settimeout(DIAL_TIMEOUT_S)
            made.connect(address)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._mqtt.tls is not None:
                made = self._encrypted(made, self._mqtt.tls)
            made.setblocking(False)
        return made

    def _encrypted(self, made: socket.socket, files: Tls) -> ssl.SSLSocket:
        """Reads the certificate files each time: they may have been renewed."""
        from edged.adapters import tls  # noqa: PLC0415 - a device without TLS does not load it

        context = tls.context(files, "mqtt.tls")
        wrapped = context.wrap_socket(made, server_hostname=self._mqtt.host, do_handshake_on_connect=False)
        with self._under_way(wrapped):
            wrapped.do_handshake()
        return wrapped

    def _check_wanted(self) -> None:
        """A dialer that is left after this finds the socket in `_dialing`."""
        if self._is_over:
            raise ConnectionAbortedError("the broker was left")

    @contextlib.contextmanager
    def _under_way(self, made: socket.socket) -> Iterator[None]:
        """While the body runs, leaving the dialer shuts the socket down. If the body fails, the socket is closed."""
        self._dialing.add(made)
        try:
            self._check_wanted()
            yield
        except BaseException:
            made.close()
            raise
        finally:
            self._dialing.discard(made)


def _call(done: Done, future: "asyncio.Future[socket.socket]") -> None:
    if future.cancelled():
        return
    error = future.exception()
    if isinstance(error, Exception):
        done(None, error)
    else:
        done(future.result(), None)


def _close(future: "asyncio.Future[socket.socket]") -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()
