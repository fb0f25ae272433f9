"""A TCP proxy with network faults, and one that holds produce requests; each in a thread of its own.

Start the broker with `advertised=proxy.port`, so that clients connect to the proxy after the first metadata, too.
"""

import contextlib
import math
import select
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from tests.support.brokers import Broker, free_port

_PIECE_S = 0.05
"""What is forwarded at a time on a slow line."""


@dataclass(eq=False)
class _Pair:
    client: socket.socket
    broker: socket.socket
    unsent: bytearray = field(default_factory=bytearray)  # from the client; only a gate keeps anything here
    is_held: bool = False


class Proxy:
    """Forwards loopback connections to `target` port. A context manager.

    `cut()` resets all connections; with `refuse`, new ones are reset too. `blackhole`: what comes in either way is
    dropped while the connections stay open; `drop_answers`: only what comes from the broker. `bytes_per_s`: what all
    connections share, both ways. `buffer_bytes`: about as much is on its way in a connection, as on a real slow line.
    """

    def __init__(self, target: int, port: int | None = None, *, buffer_bytes: int | None = None) -> None:
        self.port = port or free_port()
        self.target = target
        self.refuse = False
        self.blackhole = False
        self.drop_answers = False
        self.bytes_per_s = math.inf
        self._pairs: list[_Pair] = []
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        if buffer_bytes is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self._wake, self._woken = socket.socketpair()
        self._running = True
        self._thread = threading.Thread(target=self._run, name="proxy")

    def __enter__(self) -> Self:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._running = False
        self._wake.send(b"x")
        self._thread.join()
        self.cut()
        for each in (self._listener, self._wake, self._woken):
            each.close()
        self._selector.close()

    def cut(self) -> None:
        """Reset all connections."""
        with self._lock:
            for pair in self._pairs:
                self._close(pair)
            self._pairs.clear()

    def _run(self) -> None:
        while self._running:
            for key, _events in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._woken:
                    self._woken.recv(1 << 10)
                    with self._lock:
                        self._on_wake()
                else:
                    with self._lock:
                        self._forward(key.data, key.fileobj)

    def _accept(self) -> None:
        client, _address = self._listener.accept()
        client.settimeout(5)  # a full socket ends a connection, not the proxy
        try:
            broker = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            _reset(client)
            return
        with self._lock:
            pair = _Pair(client, broker)
            if self.refuse:
                self._close(pair)
                return
            self._pairs.append(pair)
            for each in (client, broker):
                self._selector.register(each, selectors.EVENT_READ, pair)

    def _forward(self, pair: _Pair, source: object) -> None:
        if pair not in self._pairs:
            return
        assert isinstance(source, socket.socket)
        answer = source is pair.broker
        try:
            data = source.recv(round(min(1 << 16, max(1, self.bytes_per_s * _PIECE_S))))
            time.sleep(len(data) / self.bytes_per_s)  # the line's own time: none of any speed
            if data and not self.blackhole and not (answer and self.drop_answers):
                if answer:
                    self._to_client(pair, data)
                else:
                    self._to_broker(pair, data)
        except OSError:
            data = b""
        if not data and self.blackhole:  # the other side does not learn of it, either
            self._selector.unregister(source)
        elif not data:
            self._close(pair)
            self._pairs.remove(pair)

    def _to_broker(self, pair: _Pair, data: bytes) -> None:
        pair.broker.sendall(data)

    def _to_client(self, pair: _Pair, data: bytes) -> None:
        pair.client.sendall(data)

    def _on_wake(self) -> None:
        """The proxy was woken."""

    def _close(self, pair: _Pair) -> None:
        for each in (pair.client, pair.broker):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(each)
            _reset(each)


class Gate(Proxy):
    """A proxy that can limit the bytes of produce requests to some topics, and holds those beyond the limit.

    `topics`: a part of their names. With a held request its whole connection is held; nothing is lost but the requests
    of clients that disconnect meanwhile. There is no limit at first.
    """

    def __init__(self, target: int, topics: bytes, port: int | None = None) -> None:
        super().__init__(target, port)
        self.passed_bytes = 0
        """Of produce requests to the topics."""
        self._topics = topics
        self._max_bytes = math.inf
        self._held_changed = threading.Condition(self._lock)

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        with self._held_changed:
            self._held_changed.notify_all()

    def let_pass(self, num_bytes: float) -> None:
        """Let whole requests of at most `num_bytes` more pass, and hold the others."""
        with self._lock:
            self._max_bytes = self.passed_bytes + num_bytes
            for pair in self._pairs:
                pair.is_held = False  # until the proxy has checked again
        self._wake.send(b"x")

    def open(self) -> None:
        """Hold nothing."""
        self.let_pass(math.inf)

    def wait_until_held(self, num_clients: int) -> None:
        """Block until `num_clients` connected clients are held, or the gate is closed."""
        with self._held_changed:
            self._held_changed.wait_for(lambda: not self._running or self._num_held() >= num_clients)

    def _num_held(self) -> int:
        return sum(each.is_held and not _is_gone(each) for each in self._pairs)

    def _may_pass(self, request: bytes) -> bool:
        """Whether a produce request to the topics may pass now."""
        if self.passed_bytes + len(request) > self._max_bytes:
            return False
        self.passed_bytes += len(request)
        return True

    def _on_wake(self) -> None:
        for pair in list(self._pairs):
            try:
                if pair.unsent and _is_gone(pair):
                    raise ConnectionResetError
                self._to_broker(pair, b"")
            except OSError:
                self._close(pair)
                self._pairs.remove(pair)

    def _to_broker(self, pair: _Pair, data: bytes) -> None:
        pair.unsent += data
        is_held = False
        while (request := _first_request(pair.unsent)) and not is_held:
            is_held = _is_produce(request) and self._topics in request and not self._may_pass(request)
            if not is_held:
                del pair.unsent[: len(request)]
                pair.broker.sendall(request)
        self._listen(pair, is_held=is_held)
        pair.is_held = is_held
        self._held_changed.notify_all()

    def _listen(self, pair: _Pair, *, is_held: bool) -> None:
        """Do not read from a held client: what it sends stays in its socket."""
        is_registered = pair.client in self._selector.get_map()
        if is_held and is_registered:
            self._selector.unregister(pair.client)
        elif not is_held and not is_registered:
            self._selector.register(pair.client, selectors.EVENT_READ, pair)


@contextlib.contextmanager
def gated(kind: type[Broker], topics: bytes = b".epochs.") -> Iterator[tuple[Broker, Gate]]:
    """A broker whose clients all connect through a gate; by default it can hold what the archive sends to edges."""
    port, gate_port = free_port(), free_port()
    with Gate(port, topics, gate_port) as gate, kind(port=port, advertised=gate_port) as broker:
        yield broker, gate


def _is_gone(pair: _Pair) -> bool:
    """Whether the client has closed its end, even if data from it is still unread."""
    poll = select.poll()
    poll.register(pair.client, select.POLLRDHUP)
    return bool(poll.poll(0))


def _first_request(data: bytearray) -> bytes:
    """The first Kafka request in `data`; empty while it is incomplete."""
    size = 4 + struct.unpack_from(">i", data)[0] if len(data) >= 4 else 4
    return bytes(data[:size]) if len(data) >= size else b""


def _is_produce(request: bytes) -> bool:
    return request[4:6] == b"\0\0"


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
