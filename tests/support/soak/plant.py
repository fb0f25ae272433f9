"""A whole site for the soak: a broker behind a proxy, an archive node, two edges and the companion of one.

Each node is a process that is started again when it ends, as systemd would. Covers their lives and what they log.
Draws no faults and judges no samples.
"""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from edged.cli.demo.processes import Child, LogLine
from edged.domain.topology import Topology
from edged.topology_file import load
from tests.support.archive_samples import open_archive
from tests.support.brokers import Apache, free_port
from tests.support.clock import Clock
from tests.support.disk import Disk
from tests.support.proxy import Proxy
from tests.support.soak.excuses import Excuses
from tests.support.soak.site_file import SERVED, SiteFile

NODES = {
    "vault": ("run", "vault"),
    "pi-a": ("run", "pi-a"),
    "pi-b": ("run", "pi-b"),
    "infer": ("infer", SERVED),
}
"""Command and node of each process."""

_RESTART_S = 0.5
"""After which systemd would start a node again; there it is 2 s."""

_STOP_S = 30.0
"""The unit's TimeoutStopSec."""

_TIMING = {"trimming_s": 1.0, "archive_deadline_s": 5.0, "first_deadline_s": 5.0}

Report = Callable[..., None]
"""Called with an event's name and fields: a line of the history."""


class Node:
    """One process of the site, kept running until `close`. `broke` is called for an end that nothing explains."""

    def __init__(self, name: str, folder: Path, excuses: Excuses, report: Report, broke: Callable[[str], None]) -> None:
        self.name = name
        self.clock = Clock(folder / f"{name}.clock")
        self.disk = Disk(folder / f"{name}.disk", folder / ("archive" if name == "vault" else NODES[name][1]))
        self.log_bytes = 0
        self.resident: list[tuple[float, float, int]] = []
        """When the process was started, when it said how many bytes are resident, and how many: on this clock."""
        self.weights: dict[tuple[int, int], str] = {}
        """Of a group's epochs, by epoch and step, as the process logged them."""
        self._command = NODES[name]
        self._folder = folder
        self._excuses = excuses
        self._report = report
        self._broke = broke
        self._child: Child | None = None
        self._started_s = 0.0
        self._is_asked_to_end = False
        self._is_excused = 0
        self._is_closing = False
        self._kept: asyncio.Task[None] | None = None
        self._is_up = asyncio.Event()
        self._answer: LogLine | None = None  # to the last SIGHUP

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

    async def reload(self) -> LogLine:
        """SIGHUP; what the process says to that. Nothing may end it meanwhile."""
        child = self._child
        assert child is not None
        self._answer = None
        child.signal(signal.SIGHUP)
        await child.until(lambda _: self._answer is not None, "an answer to SIGHUP")
        assert self._answer is not None
        return self._answer

    async def next_samples(self, number: int) -> list[float]:
        """When the process logs its next `res.sample` lines; it may not end meanwhile."""
        assert self._child is not None
        so_far = len(self.resident)
        await self._child.until(lambda _: len(self.resident) >= so_far + number, "its res.sample")
        return [at_s for _, at_s, _ in self.resident[so_far : so_far + number]]

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
        if problem := self._excuses.judge(self.name, line):
            self._broke(problem)
        if event != "res.sample":
            self.log_bytes += len(json.dumps(line))
        match event:
            case "res.sample":
                self.resident.append((self._started_s, time.monotonic(), line["rss_bytes"]))
                self._is_up.set()
            case "config.reloaded" | "config.refused":
                self._answer = line
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
        self.broke = broke
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
        self.file = SiteFile(self.bootstrap, self.archive)
        self.write(self.file.text())
        self.topology = self.loaded()
        self.excuses = Excuses()
        self.nodes = {name: Node(name, folder, self.excuses, report, broke) for name in NODES}
        open_archive(self.archive).create("soak")

    def loaded(self) -> Topology:
        """The topology file as it is now."""
        return load(self.folder / "topology.yaml")

    def write(self, text: str) -> None:
        """Replace the topology file; whoever reads it meanwhile has the one or the other."""
        fresh = self.folder / "topology.new"
        fresh.write_text(text)
        fresh.rename(self.folder / "topology.yaml")


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
