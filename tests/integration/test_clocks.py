"""Every sample is archived and predicted once, whatever the clocks of device, edge and archive show.

The broker's is right, and it deletes what is too old within a second. The archive node is away under the first clock,
the edge under the second; records are deleted from Kafka as soon as they are archived.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from edged.cli.demo.observer import archived_samples
from edged.cli.demo.processes import Child, LogLine
from edged.ports import TopicPartition
from tests.support.brokers import Apache, Broker
from tests.support.clock import CLOCKS, Clock, tidy_kafka
from tests.support.preloaded import need_compiler
from tests.support.site import Site, eventually, running, stopped

NUM_SAMPLES = 40
"""Published under each clock, at least."""


@pytest.fixture
def broker(need_broker: Callable[[type[Broker]], None]) -> Iterator[Apache]:
    need_broker(Apache)
    with tidy_kafka() as broker:
        yield broker


async def test_no_clock_loses_or_doubles_a_sample(broker: Apache, tmp_path: Path) -> None:
    need_compiler()
    settings = {"epochs": 1, "flush": "500ms, trim: true", "timing": {"trimming_s": 0.5}}
    async with running(Site(tmp_path, broker.bootstrap, **settings)) as site:
        clock = Clock(tmp_path / "clock")
        site.more_environment = clock.environment
        vault, edge, companion = await site.serve(images=200)

        async def published_more() -> None:
            before = len(await site.published())

            async def enough() -> bool:
                return len(await site.published()) >= before + NUM_SAMPLES

            await eventually(enough, companion)

        began_ms = time.time() * 1000
        source = ("--from", "fashion-mnist-small", "--loop", "--rate", "50")
        sensor = await site.start("sensor", "cam-01", *source)
        await published_more()
        for turn, (ahead_s, words) in enumerate(CLOCKS.items()):
            if turn == 0:
                await stopped(vault)
            if turn == 1:
                await stopped(edge)
            clock.set(ahead_s)
            await published_more()
            if turn == 0:
                vault = await site.start("run", "vault")
            if turn == 1:
                edge = await site.start("run", "pi-a")
            await told(edge, f" {words} the broker's")
            clock.set(0)
            await edge.wait_for("health.recovered", len(edge.seen("health.degraded", part="clock")), part="clock")
        await published_more()
        await stopped(sensor)

        await site.assert_each_archived_once(vault)
        await site.assert_each_predicted_once(companion)
        samples = list(archived_samples(site.loaded()))
        assert all(began_ms - 1 <= sample.arrived_ms <= time.time() * 1000 for sample in samples)
        differences = [((sample.sampled_ms or 0) - sample.arrived_ms) / 1000 for sample in samples]
        for each in (*CLOCKS, 0):
            assert sum(abs(one - each) < 60 for one in differences) >= NUM_SAMPLES // 2

        packs = TopicPartition(site.loaded().archive_topic("fashion", "pi-a"))

        async def trimmed() -> bool:
            low, high = (await site._watermarks([packs]))[packs][:2]
            return 0 < low < high

        await eventually(trimmed, vault)


async def told(node: Child, words: str) -> None:
    """Wait until the node says in these words that its clock is wrong."""

    def is_told(lines: Iterable[LogLine]) -> bool:
        return any(line.get("part") == "clock" and words in line.get("reason", "") for line in lines)

    await node.until(is_told, f"its clock was{words}")
