"""An edge with a cache, as a real process: killed in the middle of an epoch, it goes on with what the disk holds."""

import signal

from tests.support.brokers import Embedded, need_embedded
from tests.support.proxy import gated
from tests.support.site import Site, running, starved, stopped

SAMPLES = 6000
"""Twice what the cache holds: 4.7 MB of pixels."""
CACHE = "cache: {memory: 1MiB, disk: 2MiB}, "
MORE_THAN_AN_EPOCH_BYTES = 1_800_000
"""Of what the archive sends, compressed: an epoch with its test takes 1.2 MB or more, two take 2.4 MB or more."""


async def test_killed_in_the_middle_of_an_epoch_it_finds_its_cache_and_trains_on(tmp_path):
    need_embedded()
    settings = {"epochs": 3, "checkpoint": "1s", "edge": CACHE, "more": "sampling: {mode: stratified}"}
    with gated(Embedded) as (broker, gate):
        async with running(Site(tmp_path, broker.bootstrap, **settings)) as site:
            await site.import_fashion(SAMPLES)
            await site.start("run", "vault")
            gate.let_pass(MORE_THAN_AN_EPOCH_BYTES)
            edge = await site.start("run", "pi-a")
            await edge.wait_for("train.epoch", epoch=0)
            await starved(edge)
            edge.signal(signal.SIGKILL)
            assert await edge.ended() == -signal.SIGKILL
            assert not edge.seen("train.epoch", epoch=1)
            gate.open()
            await assert_it_trains_on(site)


async def assert_it_trains_on(site: Site) -> None:
    again = await site.start("run", "pi-a")
    await again.wait_for("train.finished")

    assert again.seen("cache.opened")[0]["entries"] > 0
    assert again.seen("train.started")[0].items() >= {"epoch": 1, "resumed": True}.items()
    lines = again.seen("cache.epoch")
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(line["hit_ratio"] > 0 for line in lines)
    assert lines[1]["fetched_samples"] <= 0.72 * SAMPLES  # as without a kill: 4,208
    assert not again.seen("epoch.memo_skipped")
    await stopped(again)
