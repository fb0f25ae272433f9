"""Slow links between processes of one machine: each edge in a network of its own, behind a bridge.

`Namespaces` shapes what an edge sends and what it receives with the kernel's token bucket; for that it needs root.
`Proxies` does without: a proxy for each edge that knows Kafka's connections alone, so that edges do not reach each
other. Neither delays: a link is as wide as it is told, and as short as the machine's own.
"""

import contextlib
import functools
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.bench.link import Link, Traffic
from tests.brokers import free_port

_BURST_BYTES = 32 * 1024
_QUEUE_MS = 50
"""Of what waits at a link's end; more is dropped, and TCP slows down."""


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

    how = "links shaped by tc tbf in network namespaces, both directions, without delay"

    def __init__(self) -> None:
        self._name = f"eb{os.getpid()}"
        self._subnet = f"10.213.{os.getpid() % 250 + 1}"
        self._port = free_port()

    @property
    def listeners(self) -> Listeners:
        """What the broker must have for the edges."""
        host = f"{self._subnet}.1"
        return Listeners(host, {"EDGES": self._port}, {"EDGES": f"{host}:{self._port}"})

    def __enter__(self) -> Self:
        try:
            _ip("link", "add", self._name, "type", "bridge")
            _ip("address", "add", f"{self._subnet}.1/24", "dev", self._name)
            _ip("link", "set", self._name, "up")
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        with contextlib.suppress(OSError):
            _ip("link", "delete", self._name)

    @contextlib.contextmanager
    def links(self, num: int, bits_per_s: float) -> Iterator[list[Attachment]]:
        """So many edges' networks, until the end: processes in them must have ended by then."""
        spaces = [f"{self._name}-{i}" for i in range(num)]
        try:
            yield [self._attach(i, space, bits_per_s) for i, space in enumerate(spaces)]
        finally:
            for i, space in enumerate(spaces):
                with contextlib.suppress(OSError):
                    _ip("link", "delete", self._outside(i))  # with its namespace alone it would go some time later
                with contextlib.suppress(OSError):
                    _ip("netns", "delete", space)

    def _attach(self, index: int, space: str, bits_per_s: float) -> Attachment:
        outside, address = self._outside(index), f"{self._subnet}.{10 + index}"
        inside = ("-n", space)
        _ip("netns", "add", space)
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", outside, "master", self._name, "up")
        _ip(*inside, "address", "add", f"{address}/24", "dev", "eth0")
        _ip(*inside, "link", "set", "eth0", "up")
        _ip(*inside, "link", "set", "lo", "up")
        if bits_per_s:
            _shape((), outside, bits_per_s)
            _shape(inside, "eth0", bits_per_s)
        bootstrap = f"{self._subnet}.1:{self._port}"
        within = ("nsenter", f"--net=/run/netns/{space}")
        return Attachment(within, bootstrap, address, functools.partial(_traffic, outside))

    def _outside(self, index: int) -> str:
        return f"{self._name}v{index}"


class Proxies:
    """A proxy for each edge, in a process of its own. A context manager."""

    def __init__(self, most: int, why: str) -> None:
        self.how = f"links shaped by a proxy, both directions, without delay ({why})"
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
    def links(self, num: int, bits_per_s: float) -> Iterator[list[Attachment]]:
        """So many edges' proxies."""
        with contextlib.ExitStack() as stack:
            attached = []
            for inner, outer in zip(self._inner[:num], self._outer[:num], strict=True):
                link = stack.enter_context(Link(outer, inner, bits_per_s / 8 or 1e12))
                attached.append(Attachment((), f"127.0.0.1:{outer}", None, link.traffic))
            yield attached


Network = Namespaces | Proxies


@contextlib.contextmanager
def network(most: int) -> Iterator[Network]:
    """The best network for `most` edges that this machine permits."""
    with contextlib.ExitStack() as stack:
        try:
            made: Network = stack.enter_context(Namespaces())
            with made.links(1, 1e6):
                pass  # that is permitted, too
        except OSError as error:
            stack.close()
            made = stack.enter_context(Proxies(most, f"no network namespaces: {error}"))
        yield made


def _shape(prefix: Sequence[str], device: str, bits_per_s: float) -> None:
    queue = ("burst", str(_BURST_BYTES), "latency", f"{_QUEUE_MS}ms")
    _run("tc", *prefix, "qdisc", "replace", "dev", device, "root", "tbf", "rate", f"{bits_per_s:.0f}bit", *queue)


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
