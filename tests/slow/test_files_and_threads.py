"""Open files and threads of real nodes: reconnects leave none behind, and who can open no more goes on when it can."""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from edged.cli.demo.processes import Child
from tests.support.brokers import Apache, Broker, free_port
from tests.support.proxy import Proxy
from tests.support.site import Site, following, running

RECONNECTS = 30
RESTART_EVERY = 6
WARM = 10
"""Reconnects after which all pools of threads and connections have come to their size."""

FEW = 8
"""Files that a node may have open: fewer than it has, so that it can open none."""


@asynccontextmanager
async def busy_site(tmp_path: Path) -> AsyncIterator[tuple[Site, list[Child], Proxy, Broker]]:
    """A site whose nodes reach their broker through the proxy, at work."""
    port, proxy_port = free_port(), free_port()
    settings = {"source": "both", "epochs": 100_000, "checkpoint": "1s", "flush": "200ms"}
    with Proxy(port, proxy_port) as proxy, Apache(port=port, advertised=proxy_port) as broker:
        async with running(Site(tmp_path, broker.bootstrap, **settings), {"checkpoint.failed"}) as site:
            await site.import_fashion(100, test_limit=100)
            nodes = await site.start_nodes()
            await site.start_sensors(20)
            await following(nodes[2], "infer.model_loaded")
            yield site, nodes, proxy, broker


async def fewest(node: Child) -> tuple[int, int]:
    """Open files and threads: of some moments the fewest, for some are open for a moment alone."""
    found = []
    for _ in range(5):
        await following(node, "res.sample")
        process = Path("/proc") / str(node.pid)
        found.append([len(list((process / what).iterdir())) for what in ("fd", "task")])
    files, threads = zip(*found, strict=True)
    return min(files), min(threads)


async def test_reconnects_leave_no_files_and_threads_behind(
    need_broker: Callable[[type[Broker]], None], tmp_path: Path
):
    need_broker(Apache)
    counts: list[Sequence[tuple[int, int]]] = []
    async with busy_site(tmp_path) as (_site, nodes, proxy, broker):
        for reconnect in range(1, RECONNECTS + 1):
            if reconnect % RESTART_EVERY:
                proxy.cut()
            else:
                await asyncio.to_thread(broker.stop)
                await asyncio.to_thread(broker.start)
            await following(nodes[0], "archive.flushed", 2)
            counts.append(await asyncio.gather(*(fewest(node) for node in nodes)))
    for node, found in zip(nodes, zip(*counts, strict=True), strict=True):
        for what, numbers in zip(("files", "threads"), zip(*found, strict=True), strict=True):
            print(f"{node.name}: {what} {numbers}")  # noqa: T201 - the test's figures
            assert min(numbers[-5:]) <= max(numbers[WARM - 5 : WARM]) + 1, (node.name, what, numbers)


async def test_nodes_that_can_open_no_more_files_go_on_when_they_can(
    need_broker: Callable[[type[Broker]], None], tmp_path: Path
):
    need_broker(Apache)
    async with busy_site(tmp_path) as (site, nodes, proxy, _broker):
        vault, _edge, companion = nodes
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for node in nodes:
            resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (FEW, hard))
        proxy.cut()
        for node in nodes:
            await node.wait_for("health.degraded", part="kafka")
            lines = [await following(node, "res.sample") for _ in range(25)]
            assert sum(line["process_cpu_percent"] for line in lines) / len(lines) < 90, "it tries without a pause"
        for node in nodes:
            resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (soft, hard))
        for sensor in site.children[3:]:
            assert await sensor.stop() == 0
        await site.assert_each_archived_once(vault)
        await site.assert_each_predicted_once(companion)
