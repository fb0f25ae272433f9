"""A whole site for the soak: a broker behind a proxy, an archive node, two edges and the companion of one.

Each node is a process that is started again when it ends, as systemd would. Covers their lives and what they log.
Draws no faults and judges no samples.
"""

import asyncio
import contextlib
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from edged.adapters.parquet.store import ParquetStore
from edged.cli.demo.processes import Child, LogLine
from edged.topology_file import load
from tests.support.brokers import Apache, free_port
from tests.support.clock import Clock
from tests.support.disk import Disk
from tests.support.proxy import Proxy

STREAM = "pixels"
DEVICES = {"dev-1": "pi-a", "dev-2": "pi-a", "dev-3": "pi-b"}
"""Each with its edge."""

SERVED = "pi-a"
"""The edge that has a companion."""

NODES = {
    "vault": ("run", "vault"),
    "pi-a": ("run", "pi-a"),
    "pi-b": ("run", "pi-b"),
    "infer": ("infer", SERVED),
}
"""Command and node of each process."""

TOPOLOGY = """\
schema: 1
site: soak
kafka: {{bootstrap: ["{bootstrap}"]}}
streams:
  pixels:
    sample: {{shape: [8, 8, 1], dtype: uint8}}
    labels: [even, odd]
iot:
  - {{name: dev-1, edge: pi-a, stream: pixels, codec: raw}}
  - {{name: dev-2, edge: pi-a, stream: pixels, codec: raw}}
  - {{name: dev-3, edge: pi-b, stream: pixels, codec: raw}}
edges:
  - {{name: pi-a, cache: {{memory: 1MiB, disk: 8MiB}}, prefetch: 4MiB, memory_limit: 400MiB}}
  - {{name: pi-b, cache: {{memory: 1MiB, disk: 8MiB}}, prefetch: 4MiB, memory_limit: 400MiB}}
archive:
  - {{name: vault, url: "{archive}", flush: 500ms, trim: true}}
training:
  - name: group
    stream: pixels
    model: [flatten, dense: {{units: 16, activation: relu}}, dense: 2]
    epochs: 100000
    global_batch: 512
    micro_batch: 64
    checkpoint: 10s
    optimizer: {{sgd: {{learning_rate: 0.01}}}}
    sampling: {{mode: uniform}}
    exchange: {{mode: all_reduce}}
  - name: own
    stream: pixels
    source: live
    live_epoch: 500
    model: [flatten, dense: 2]
    epochs: 100000
    global_batch: 64
    micro_batch: 64
    checkpoint: 5s
    optimizer: {{sgd: {{learning_rate: 0.01}}}}
"""

_RESTART_S = 0.5
"""After which systemd would start a node again; there it is 2 s."""

_STOP_S = 30.0
"""The unit's TimeoutStopSec."""

_TIMING = {"sample_s": 1.0, "retention_s": 1.0, "archive_deadline_s": 5.0, "first_deadline_s": 5.0}

Report = Callable[..., None]
"""Called with an event's name and fields: a line of the history."""


class Node:
    """One process of the site, kept running until `close`. `broke` is called for an end that nothing explains."""

    def __init__(self, name: str, folder: Path, report: Report, broke: Callable[[str], None]) -> None:
        self.name = name
        self.clock = Clock(folder / f"{name}.clock")
        self.disk = Disk(folder / f"{name}.disk", folder / ("archive" if name == "vault" else NODES[name][1]))
        self.counts: Counter[str] = Counter()
        """Log lines by event."""
        self.log_bytes = 0
        self.resident: list[tuple[float, float, int]] = []
        """When the process was started, when it said how many bytes are resident, and how many: on this clock."""
        self.weights: dict[tuple[int, int], str] = {}
        """Of a group's epochs, by epoch and step, as the process logged them."""
        self._command = NODES[name]
        self._folder = folder
        self._report = report
        self._broke = broke
        self._child: Child | None = None
        self._started_s = 0.0
        self._is_asked_to_end = False
        self._is_excused = 0
        self._is_closing = False
        self._kept: asyncio.Task[None] | None = None
        self._is_up = asyncio.Event()

    def open(self) -> None:
        """Start it, and again whenever it ends."""
        self._kept = asyncio.create_task(self._keep(), name=self.name)

    async def close(self) -> None:
        """SIGTERM; it ends by itself, with 0."""
        self._is_closing = True
        await self.end(signal.SIGTERM)
        assert self._kept is not None
        await self._kept

    async def end(self, number: signal.Signals) -> None:
        """Send a signal that ends the process; returns when it has. SIGTERM ends it cleanly, and in time."""
        await self.up()
        child = self._child
        assert child is not None
        self._is_asked_to_end = True
        child.signal(number)
        try:
            async with asyncio.timeout(_STOP_S):
                code = await child.ended()
        except TimeoutError:
            self._broke(f"{self.name} did not end within {_STOP_S:.0f} s of {number.name}\n{child.last_words()}")
            child.signal(signal.SIGKILL)
            return
        if number == signal.SIGTERM and code != 0:
            self._broke(f"{self.name} ended with {code} after SIGTERM\n{child.last_words()}")

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def hang_up(self) -> None:
        self._signal(signal.SIGHUP)

    async def up(self) -> None:
        """Return when the process listens to signals."""
        await self._is_up.wait()

    @contextlib.contextmanager
    def excused(self) -> Any:
        """Inside, the process may end by itself: it is started again."""
        self._is_excused += 1
        try:
            yield
        finally:
            self._is_excused -= 1

    def last_words(self) -> str:
        return "" if self._child is None else self._child.last_words()

    def environment(self) -> Mapping[str, str]:
        node = self._command[1]
        return {
            "XDG_STATE_HOME": str(self._folder / node / "state"),
            "XDG_CACHE_HOME": str(self._folder / node / "cache"),
            "EDGED_STRICT_LOG": "1",
            "EDGED_TIMING": json.dumps(_TIMING),
            **self.clock.environment,
            **self.disk.environment,
            "LD_PRELOAD": f"{self.clock.environment['LD_PRELOAD']} {self.disk.environment['LD_PRELOAD']}",
        }

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            self._child.signal(number)

    async def _keep(self) -> None:
        command, node = self._command
        more = ("--job", "group") if command == "infer" else ()
        while not self._is_closing:
            self._started_s = time.monotonic()
            self._is_asked_to_end = False
            self._child = child = await Child.start(
                self.name, command, str(self._folder / "topology.yaml"), "--node", node, *more,
                environment=self.environment(), on_line=self._take, log_file=self._folder / f"{self.name}.log",
            )  # fmt: skip
            code = await child.ended()
            self._is_up.clear()
            self._report("node_ended", node=self.name, exit_code=code, asked=self._is_asked_to_end)
            if not self._is_asked_to_end and not self._is_excused:
                self._broke(f"{self.name} ended by itself with {code}\n{child.last_words()}")
            if child.noise:
                self._broke(f"{self.name} printed what is no log line: {list(child.noise)[-20:]}")
            await asyncio.sleep(_RESTART_S)

    def _take(self, _name: str, line: LogLine) -> None:
        event = line["event"]
        self.counts[event] += 1
        if event != "res.sample":
            self.log_bytes += len(json.dumps(line))
        match event:
            case "res.sample":
                self.resident.append((self._started_s, time.monotonic(), line["rss_bytes"]))
                self._is_up.set()
            case "life.ready":
                self._is_up.set()
            case "exchange.epoch":
                self._learn(line["epoch"], line["step"], line["weights"])

    def _learn(self, epoch: int, step: int, weights: str) -> None:
        known = self.weights.setdefault((epoch, step), weights)
        if known != weights:
            self._broke(f"{self.name}: epoch {epoch} ended with weights {known}, and then with {weights}")


class Plant:
    """The site: its broker, proxy and nodes."""

    def __init__(self, folder: Path, report: Report, broke: Callable[[str], None]) -> None:
        self.folder = folder
        self.archive = (folder / "archive").as_uri()
        port, proxy_port = free_port(), free_port()
        self.proxy = Proxy(port, proxy_port)
        self.broker = Apache(
            {
                "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
                "log.retention.check.interval.ms": "1000",
                "auto.create.topics.enable": "false",
            },
            port=port,
            advertised=proxy_port,
        )
        self.bootstrap = self.broker.bootstrap
        (folder / "topology.yaml").write_text(TOPOLOGY.format(bootstrap=self.bootstrap, archive=self.archive))
        self.topology = load(folder / "topology.yaml")
        self.nodes = {name: Node(name, folder, report, broke) for name in NODES}
        ParquetStore(self.archive).create("soak")


@asynccontextmanager
async def running(plant: Plant) -> AsyncIterator[None]:
    """Start the broker and the nodes; at the end they are stopped, the edges before the archive."""
    with plant.proxy:
        await asyncio.to_thread(plant.broker.start)
        try:
            for node in plant.nodes.values():
                node.open()
            yield
            await asyncio.gather(*(node.close() for name, node in plant.nodes.items() if name != "vault"))
            await plant.nodes["vault"].close()
        finally:
            await asyncio.to_thread(plant.broker.stop)
