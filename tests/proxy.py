"""A TCP proxy that can misbehave, in a thread of its own.

Start the broker with `advertised=proxy.port`, so that clients come back to the proxy after the first metadata.
"""

import contextlib
import selectors
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Self

from tests.brokers import free_port


@dataclass
class _Pair:
    client: socket.socket
    broker: socket.socket


class Proxy:
    """Forwards loopback connections to `target` port. A context manager.

    `cut()` resets all connections; with `refuse`, new ones are reset too. `blackhole`: what comes in either way is
    dropped while the connections stay open; `drop_answers`: only what comes from the broker.
    """

    def __init__(self, target: int, port: int | None = None) -> None:
        self.port = port or free_port()
        self.target = target
        self.refuse = False
        self.blackhole = False
        self.drop_answers = False
        self._pairs: list[_Pair] = []
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", self.port))
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
                elif key.fileobj is not self._woken:
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
        target = pair.client if answer else pair.broker
        try:
            data = source.recv(1 << 16)
            if data and not self.blackhole and not (answer and self.drop_answers):
                target.sendall(data)
        except OSError:
            data = b""
        if not data:
            self._close(pair)
            self._pairs.remove(pair)

    def _close(self, pair: _Pair) -> None:
        for each in (pair.client, pair.broker):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(each)
            _reset(each)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
