"""Real Mosquitto for tests: a child process on a loopback port with a folder of its own, to do anything to.

Covers foreign clients, too: `mosquitto_pub` and `mosquitto_sub`, and a broker in front that speaks MQTT 3.1.1 alone.
"""

import contextlib
import getpass
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Self

from edged.adapters.embedded.server import killed_with_parent
from edged.adapters.mqtt.inbound import Framer, Kind
from edged.domain.mqtt import mosquitto
from edged.domain.topology import Mqtt, Tls
from tests.support.brokers import Broker, free_port
from tests.support.proxy import Proxy
from tests.support.requirements import require
from tests.support.secured import Authority

_START_S = 30.0
_LOOK_S = 0.02
_CONNECT, _PUBACK = 1, 4

PRINTED = tuple(mosquitto.keeping(Mqtt("127.0.0.1")))
"""What `edged topics` prints, for a broker that is found and whose users are known by other lines."""


def need_mosquitto() -> None:
    """End the test where there is no Mosquitto."""
    if program("mosquitto") is None:
        require("no mosquitto (Debian's package of that name)")


def program(name: str) -> str | None:
    """Where Debian has it, also for who has no sbin on the PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def keeps_to_receive_maximum() -> bool:
    """Whether it has no more on their way to a client than that asks for, also while it sends what has waited.

    Before 2.0.13 each acknowledgement of the oldest has it send as many again (mosquitto#2301, #2306).
    """
    told = subprocess.run([program("mosquitto") or "", "-h"], capture_output=True, text=True, check=False).stdout
    version = re.match(r"mosquitto version (\d+)\.(\d+)\.(\d+)", told)
    assert version is not None, told
    return tuple(map(int, version.groups())) >= (2, 0, 13)


class Mosquitto(Broker):
    """A broker with these lines in its mosquitto.conf. `users`: names and passwords; without any, anybody may come.

    `tls`: certificates for 127.0.0.1 by an authority of its own, see `files`; `wants_certificate`: clients', too.
    `forget` lets the next start know nothing. A context manager, as all brokers.
    """

    def __init__(
        self,
        settings: Iterable[str] = PRINTED,
        *,
        users: Mapping[str, str] | None = None,
        tls: bool = False,
        wants_certificate: bool = False,
        days: int = 2,
        port: int | None = None,
        advertised: int | None = None,
    ) -> None:
        super().__init__(port=port, advertised=advertised)
        self.settings = tuple(settings)
        self.users = dict(users or {})
        self.files: Tls | None = None
        self._lines = [f"listener {self.port} 127.0.0.1", f"user {getpass.getuser()}"]
        self._lines += [f"persistence_location {self.folder}/", "log_type all"]
        if users:
            passwords = self.folder / "passwords"
            passwords.write_text("")
            passwords.chmod(0o600)
            for name, password in users.items():
                subprocess.run(["mosquitto_passwd", "-b", passwords, name, password], check=True, capture_output=True)
            self._lines += ["allow_anonymous false", f"password_file {passwords}"]
        else:
            self._lines.append("allow_anonymous true")
        if tls:
            authority = Authority(self.folder)
            authority.create()
            certificate, key = authority.issue("mosquitto", self.folder, host="127.0.0.1", days=days)
            own, own_key = authority.issue("edge-1", self.folder)
            self._lines += [f"cafile {authority.file}", f"certfile {certificate}", f"keyfile {key}"]
            self.files = Tls(ca=str(authority.file))
            if wants_certificate:
                self._lines += ["require_certificate true"]
                self.files = Tls(str(authority.file), str(own), str(own_key))

    def mqtt(self, *, username: str | None = None, password: str | None = None, **options: int) -> Mqtt:
        """How a topology names it."""
        user = username or next(iter(self.users), None)
        return Mqtt(
            f"127.0.0.1:{self.advertised}",
            self.files,
            user,
            password or self.users.get(user or ""),
            **options,
        )

    def wait_until_up(self) -> None:
        """Return when it answers."""
        until_s = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return  # noqa: TRY300 - the point of the loop
            except OSError as error:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > until_s:
                    raise RuntimeError(f"no answer; {self.said()[-2000:]}") from error
                time.sleep(_LOOK_S)

    def kill(self) -> None:
        """As a power cut would."""
        self.stop(signal.SIGKILL)

    def forget(self) -> None:
        """Delete its store, while it does not run."""
        (self.folder / "mosquitto.db").unlink(missing_ok=True)

    @property
    def saved_at(self) -> float:
        """When it last wrote its store, as Unix time; 0 before it has."""
        store = self.folder / "mosquitto.db"
        return store.stat().st_mtime if store.exists() else 0.0

    def said(self) -> str:
        """Its log."""
        return (self.folder / "output.log").read_text(errors="replace")

    def num_acks(self) -> Counter[str]:
        """Of each client, by its id, the acknowledgements that it has read."""
        return Counter(re.findall(r"Received PUBACK from (\S+) ", self.said()))

    def publish(self, topic: str, payload: bytes, *options: str) -> None:
        """By `mosquitto_pub`, with QoS 1."""
        subprocess.run(
            ["mosquitto_pub", *self._where(), "-q", "1", "-t", topic, "-s", *options], input=payload, check=True
        )

    def publish_lines(self, topic: str, line: bytes, count: int) -> None:
        """By `mosquitto_pub`, the same payload again and again, with QoS 0."""
        command = ["mosquitto_pub", *self._where(), "-q", "0", "-t", topic, "-l"]
        subprocess.run(command, input=(line + b"\n") * count, check=True)

    def subscriber(self, topic: str, *options: str) -> "subprocess.Popen[bytes]":
        """`mosquitto_sub`, whose output is piped."""
        return subprocess.Popen(
            killed_with_parent(["mosquitto_sub", *self._where(), "-q", "1", "-t", topic, *options]),
            stdout=subprocess.PIPE,
        )

    def _where(self) -> list[str]:
        options = ["-h", "127.0.0.1", "-p", str(self.port)]
        for name, password in list(self.users.items())[:1]:
            options += ["-u", name, "-P", password]
        if self.files is not None:
            assert self.files.ca is not None
            options += ["--cafile", self.files.ca]
        return options

    def _command(self) -> list[str]:
        config = self.folder / "mosquitto.conf"
        config.write_text("\n".join([*self._lines, *self.settings, ""]))
        return [program("mosquitto") or "mosquitto", "-c", str(config)]


class OldBroker(Proxy):
    """In front of a broker: to a client of MQTT 5 it says what a broker says that speaks 3.1.1 alone."""

    def _to_broker(self, pair: object, data: bytes) -> None:
        if data[:1] == b"\x10" and b"\x00\x04MQTT\x05" in data[:14]:
            pair.client.sendall(b"\x20\x02\x00\x01")  # type: ignore[attr-defined]
            raise ConnectionResetError
        super()._to_broker(pair, data)  # type: ignore[arg-type]


class DeafLine(Proxy):
    """In front of a broker: goes dead in the middle of what the broker sends again, once `arm` was called.

    Nobody is told: connections stay open and carry nothing, those too that begin until `heal`. They never do again.
    `num_acks`: of each client, by its id, the acknowledgements that it has sent, on dead lines, too.
    """

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.is_deaf = False
        self.num_acks: Counter[str] = Counter()
        self._is_armed = False
        self._deaf: set[object] = set()
        self._framers: dict[object, Framer] = {}
        self._clients: dict[object, _Client] = {}

    def arm(self) -> None:
        """The next packet that is sent again is cut in two; connections from now on are watched."""
        self._framers.clear()
        self._is_armed = True

    def heal(self) -> None:
        """Connections that begin from now on are as good as any."""
        self.is_deaf = False

    def _is_dead(self, pair: object) -> bool:
        if self.is_deaf:
            self._deaf.add(pair)
        return pair in self._deaf

    def _to_broker(self, pair: object, data: bytes) -> None:
        self._count(pair, data)
        if not self._is_dead(pair):
            super()._to_broker(pair, data)  # type: ignore[arg-type]

    def _to_client(self, pair: object, data: bytes) -> None:
        if self._is_dead(pair):
            return
        if self._is_armed and self._is_sent_again(pair, data):
            self._is_armed, self.is_deaf = False, True
            data = data[: len(data) // 2]
        super()._to_client(pair, data)  # type: ignore[arg-type]

    def _close(self, pair: Any) -> None:
        with contextlib.suppress(OSError):  # there is no more
            pair.client.setblocking(False)
            while data := pair.client.recv(1 << 16):
                self._count(pair, data)
        super()._close(pair)
        self._clients.pop(pair, None)

    def _count(self, pair: object, data: bytes) -> None:
        client = self._clients.setdefault(pair, _Client())
        num_acks = client.acknowledged(data)
        self.num_acks[client.id] += num_acks

    def _is_sent_again(self, pair: object, data: bytes) -> bool:
        """Of a connection that began before it was armed, nobody knows where a packet begins; it is cut anyway."""
        if pair not in self._framers and data[:1] != b"\x20":
            return False
        frames = self._framers.setdefault(pair, Framer(1 << 20)).feed(data)
        return any(frame.kind == Kind.PUBLISH and frame.first & 8 for frame in frames)


class _Client:
    """What a client sends in one connection. `id`: as its CONNECT says."""

    def __init__(self) -> None:
        self.id = ""
        self._framer = Framer(1 << 20)

    def acknowledged(self, data: bytes) -> int:
        """How many acknowledgements these bytes complete."""
        count = 0
        for frame in self._framer.feed(data):
            if frame.kind == _CONNECT:
                self.id = _client_id(frame.body)
            count += frame.kind == _PUBACK
        return count


def _client_id(connect: bytearray) -> str:
    """The first field behind the header of ten bytes, and behind MQTT 5's properties, here of less than 128 bytes."""
    at = 11 + connect[10] if connect[6] == 5 else 10
    (size,) = struct.unpack_from("!H", connect, at)
    return connect[at + 2 : at + 2 + size].decode()


class Stranger:
    """A server that is no MQTT broker: to whoever connects it says `greeting`, and reads what comes.

    `hangs_up`: after its greeting. `port`: its own.
    """

    def __init__(self, greeting: bytes, *, hangs_up: bool = False) -> None:
        self._greeting = greeting
        self._hangs_up = hangs_up
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, name="stranger")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for each in self._open:
            each.close()

    @property
    def mqtt(self) -> Mqtt:
        return Mqtt(f"127.0.0.1:{self.port}")

    def _run(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            with contextlib.suppress(OSError):  # who has gone again
                client.sendall(self._greeting)
            if self._hangs_up:
                client.close()
