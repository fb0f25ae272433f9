"""An edge with a cache, as a real process: killed in the middle of an epoch, it goes on with what the disk holds."""

import signal

import pytest

from tests.integration.site import Site, running, stopped

pytestmark = pytest.mark.integration
SAMPLES = 6000
"""Twice what the cache holds: 4.7 MB of pixels."""
CACHE = "cache: {memory: 1MiB, disk: 2MiB}, "


async def test_killed_in_the_middle_of_an_epoch_it_finds_its_cache_and_trains_on(embedded_broker, tmp_path):
    site = Site(
        tmp_path,
        embedded_broker.bootstrap,
        site=tmp_path.name,
        epochs=3,
        checkpoint="1s",
        edge=CACHE,
        more="sampling: {mode: stratified}",
    )
    async with running(site):
        await site.import_fashion(SAMPLES)
        vault = await site.start("run", "vault")
        edge = await site.start("run", "pi-a")
        await edge.wait_for("train.epoch", epoch=0)
        vault.signal(signal.SIGSTOP)  # with what is in hand and cached, the epoch cannot end
        await edge.until(lambda lines: any(line.get("wait_fraction", 0.0) > 0.99 for line in list(lines)[-2:]))
        edge.signal(signal.SIGKILL)
        assert await edge.ended() == -signal.SIGKILL
        assert not edge.seen("train.epoch", epoch=1)
        vault.signal(signal.SIGCONT)

        again = await site.start("run", "pi-a")
        await again.wait_for("train.finished")

        assert again.seen("cache.opened")[0]["entries"] > 0
        assert again.seen("train.started")[0].items() >= {"epoch": 1, "resumed": True}.items()
        lines = again.seen("cache.epoch")
        assert [line["epoch"] for line in lines] == [1, 2]
        assert all(line["hit_ratio"] > 0 for line in lines)
        assert lines[1]["fetched_samples"] < 0.9 * SAMPLES
        assert not again.seen("epoch.memo_skipped")
        await stopped(again)
