"""Slow links between processes of one machine: each edge in a network of its own, behind a bridge.

A link's width is that of each direction, its delay one way: a round trip takes twice as long. `Namespaces` shapes what
an edge sends and what it receives with the kernel's token bucket, and delays it with netem, or by a relay where the
kernel has none; for that it needs root. `Proxies` does without: a proxy for each edge that knows Kafka's connections
alone, so that edges do not reach each other, and delays what they say but not how they begin.
"""

import contextlib
import functools
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.bench.delay import Relay
from tests.bench.link import Link, Traffic
from tests.support.brokers import free_port

_BURST_BYTES = 32 * 1024
_QUEUE_MS = 50
"""Of what waits at a link's end; more is dropped, and TCP slows down."""
_RELAY_MTU, _RELAY_WINDOW = 9000, 2
"""A relay costs CPU by the packet, so they are six times as large as on Ethernet; TCP must not therefore begin with six
times as much under way: two of them are about the ten that it begins with there."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One edge's end of the network.

    `within`: the beginning of a command that runs there; `bootstrap`: where that finds the broker; `address`: where
    other edges find it, None if they do not.
    """

    within: Sequence[str]
    bootstrap: str
    address: str | None
    traffic: Callable[[], Traffic]


@dataclass(frozen=True, slots=True)
class Listeners:
    """By their names: the ports on which the broker listens at `host`, and where it tells clients that it is."""

    host: str
    ports: Mapping[str, int]
    advertised: Mapping[str, str]


class Namespaces:
    """A bridge with the broker's address. A context manager; entering raises OSError where it is not permitted."""

    def __init__(self) -> None:
        self._netem = False
        self._name = f"eb{os.getpid()}"
        self._subnet = f"10.213.{os.getpid() % 250 + 1}"
        self._port = free_port()

    @property
    def listeners(self) -> Listeners:
        """What the broker must have for the edges."""
        host = f"{self._subnet}.1"
        return Listeners(host, {"EDGES": self._port}, {"EDGES": f"{host}:{self._port}"})

    @property
    def how(self) -> str:
        """In words for the report."""
        delayed = "netem" if self._netem else "a relay between TAP devices"
        return f"links shaped by tc tbf in network namespaces, both directions, delays by {delayed}"

    def __enter__(self) -> Self:
        try:
            _ip("link", "add", self._name, "type", "bridge")
            _ip("address", "add", f"{self._subnet}.1/24", "dev", self._name)
            _ip("link", "set", self._name, "up")
            self._netem = _has_netem(self._name)
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        with contextlib.suppress(OSError):
            _ip("link", "delete", self._name)

    @contextlib.contextmanager
    def links(self, num: int, bits_per_s: float, delay_s: float) -> Iterator[list[Attachment]]:
        """So many edges' networks, until the end: processes in them must have ended by then."""
        spaces = [f"{self._name}-{i}" for i in range(num)]
        try:
            for space in spaces:
                _ip("netns", "add", space)
            by_netem, by_relay = (delay_s, 0.0) if self._netem else (0.0, delay_s)
            with self._pairs(spaces, by_relay):
                yield [self._attach(i, space, bits_per_s, by_netem, by_relay) for i, space in enumerate(spaces)]
        finally:
            for space in spaces:
                with contextlib.suppress(OSError):
                    _ip("netns", "delete", space)

    @contextlib.contextmanager
    def _pairs(self, spaces: Sequence[str], delay_s: float) -> Iterator[None]:
        """A device outside for each space, and its eth0: what one sends the other receives, so much later."""
        outside = [self._outside(i) for i in range(len(spaces))]
        if delay_s:
            inside = [f"{name}i" for name in outside]
            with Relay(zip(inside, outside, strict=True), delay_s):
                for name in (*inside, *outside):
                    _ip("link", "set", name, "mtu", str(_RELAY_MTU))
                for name, space in zip(inside, spaces, strict=True):
                    _ip("link", "set", name, "netns", space, "name", "eth0")
                yield
            return
        try:
            for name, space in zip(outside, spaces, strict=True):
                _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space)
            yield
        finally:
            for name in outside:
                with contextlib.suppress(OSError):
                    _ip("link", "delete", name)  # with its namespace alone it would go some time later

    def _attach(self, index: int, space: str, bits_per_s: float, by_netem: float, by_relay: float) -> Attachment:
        outside, address = self._outside(index), f"{self._subnet}.{10 + index}"
        inside = ("-n", space)
        for prefix, device in (((), outside), (inside, "eth0")):
            _shape(prefix, device, bits_per_s, by_netem)
        _ip("link", "set", outside, "master", self._name, "up")
        _ip(*inside, "address", "add", f"{address}/24", "dev", "eth0")
        _ip(*inside, "link", "set", "eth0", "up")
        _ip(*inside, "link", "set", "lo", "up")
        window = ("initcwnd", str(_RELAY_WINDOW)) if by_relay else ()
        _ip(*inside, "route", "replace", f"{self._subnet}.0/24", "dev", "eth0", "src", address, *window)
        _ip("route", "replace", address, "dev", self._name, *window)
        bootstrap = f"{self._subnet}.1:{self._port}"
        within = ("nsenter", f"--net=/run/netns/{space}")
        return Attachment(within, bootstrap, address, functools.partial(_traffic, outside))

    def _outside(self, index: int) -> str:
        return f"{self._name}v{index}"


class Proxies:
    """A proxy for each edge, in a process of its own. A context manager."""

    def __init__(self, most: int, why: str) -> None:
        self.how = f"links shaped and delayed by a proxy, both directions ({why})"
        self._inner = [free_port() for _ in range(most)]
        self._outer = [free_port() for _ in range(most)]

    @property
    def listeners(self) -> Listeners:
        """What the broker must have: a listener for each edge, which sends it to its proxy."""
        advertised = {f"EDGE{i}": f"127.0.0.1:{outer}" for i, outer in enumerate(self._outer)}
        return Listeners("127.0.0.1", dict(zip(advertised, self._inner, strict=True)), advertised)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        """The proxies end with their run."""

    @contextlib.contextmanager
    def links(self, num: int, bits_per_s: float, delay_s: float) -> Iterator[list[Attachment]]:
        """So many edges' proxies."""
        with contextlib.ExitStack() as stack:
            attached = []
            for inner, outer in zip(self._inner[:num], self._outer[:num], strict=True):
                link = stack.enter_context(Link(outer, inner, bits_per_s / 8 or 1e12, delay_s))
                attached.append(Attachment((), f"127.0.0.1:{outer}", None, link.traffic))
            yield attached


Network = Namespaces | Proxies


def read_link(text: str) -> tuple[float, float]:
    """Bits a second and milliseconds, from Mbit/s and the milliseconds of one way: `94/0.3`, or `94` without delay."""
    mbit, _, delay_ms = text.partition("/")
    return 1e6 * float(mbit), float(delay_ms or 0)


def link_name(bits_per_s: float, delay_ms: float) -> str:
    """In words for the report."""
    width = f"{bits_per_s / 1e6:g} Mbit/s" if bits_per_s else "unlimited"
    return f"{width} + {delay_ms:g} ms" if delay_ms else width


@contextlib.contextmanager
def network(most: int) -> Iterator[Network]:
    """The best network for `most` edges that this machine permits."""
    with contextlib.ExitStack() as stack:
        try:
            made: Network = stack.enter_context(Namespaces())
            with made.links(1, 1e6, 0.001):
                pass  # that is permitted, too
        except OSError as error:
            stack.close()
            made = stack.enter_context(Proxies(most, f"no network namespaces: {error}"))
        yield made


def _has_netem(device: str) -> bool:
    try:
        _qdisc((), device, "root", "netem", "delay", "1ms")
    except OSError:
        return False
    _run("tc", "qdisc", "delete", "dev", device, "root")
    return True


def _shape(prefix: Sequence[str], device: str, bits_per_s: float, delay_s: float) -> None:
    """What the device sends, as wide and as late as told; 0 is neither."""
    place = ["root"]
    if delay_s:
        _qdisc(prefix, device, "root", "handle", "1:", "netem", "delay", f"{1e6 * delay_s:.0f}us", "limit", "10000")
        place = ["parent", "1:1"]
    if bits_per_s:
        queue = ("burst", str(_BURST_BYTES), "latency", f"{_QUEUE_MS}ms")
        _qdisc(prefix, device, *place, "tbf", "rate", f"{bits_per_s:.0f}bit", *queue)


def _qdisc(prefix: Sequence[str], device: str, *what: str) -> None:
    _run("tc", *prefix, "qdisc", "replace", "dev", device, *what)


def _traffic(device: str) -> Traffic:
    """What the outer end of the pair received is what the edge sent."""
    statistics = Path("/sys/class/net") / device / "statistics"
    return Traffic(*(int((statistics / name).read_text()) for name in ("rx_bytes", "tx_bytes")))


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
