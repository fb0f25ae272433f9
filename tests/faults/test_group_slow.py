"""A group with a member that gets a tenth of a core, as real processes."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from tests.support.real_group import History, digest, newest_checkpoint
from tests.support.site import DESIGNS_MODEL, Site, own_name, running, stopped

EDGES = ("pi-a", "pi-b", "pi-c")
SETTINGS = {"edges": EDGES, "epochs": 3, "model": DESIGNS_MODEL, "more": "exchange: {mode: all_reduce}"}
IMAGES = 640


async def test_a_member_ten_times_slower_gets_a_smaller_share_and_keeps_up(quiet_machine, embedded_broker, tmp_path):
    """Measured in one epoch, it gets a smaller share of the next one's batches, and all end with the same weights."""
    async with running(Site(tmp_path, embedded_broker.bootstrap, site=own_name(tmp_path), **SETTINGS)) as site:
        await site.import_fashion(IMAGES, test_limit=100)
        await site.start("run", "vault")
        edges = [await site.start("run", name) for name in EDGES]
        await edges[1].wait_for("exchange.joined")
        with slowed(edges[1].pid):
            for edge in edges:
                await edge.wait_for("train.finished")
        for edge in edges:
            await stopped(edge)
        history = History(site.loaded())
        await history.read_on()
        final = {digest(newest_checkpoint(site, name)) for name in EDGES}

    assert final == {history.digests[3 * IMAGES // 64]}
    *_, last = history.epochs
    assert 0 < last.shares["pi-b"] < 0.25 < min(last.shares["pi-a"], last.shares["pi-c"])
    contributions = [history.contributors(each.step).count("pi-b") for each in history.steps if each.step >= last.step]
    assert sum(contributions) > len(contributions) / 2


@contextlib.contextmanager
def slowed(pid: int) -> Iterator[None]:
    """Give the process a tenth of the time: stop it for 36 of each 40 ms."""
    over = threading.Event()

    def slow() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            over.wait(0.036)
            os.kill(pid, signal.SIGCONT)
            over.wait(0.004)

    thread = threading.Thread(target=slow, name="slow")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
