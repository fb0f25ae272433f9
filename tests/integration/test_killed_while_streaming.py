"""An edge and its companion, killed again and again while samples stream: each sample has its effect once."""

import asyncio
import random
import signal

import pytest

from edged.cli.demo.children import Child
from tests.integration.site import Site, following, running

pytestmark = pytest.mark.integration
KILLS = 3
RATE = 400.0


async def killed_at_work(site: Site, command: str, working: str, rng: random.Random) -> None:
    """Start the process and kill it somewhere in its work, KILLS times."""
    for _ in range(KILLS):
        node: Child = await site.start(command, "pi-a")
        await node.until(lambda lines: any(line.get(working) for line in lines))
        await asyncio.sleep(rng.random())  # a moment unlike that of the line
        node.signal(signal.SIGKILL)
        assert await node.ended() == -signal.SIGKILL


async def test_killed_while_samples_stream_each_is_archived_and_predicted_once(apache_kafka, tmp_path):
    """kill -9 of edge and companion, both several times: what came meanwhile waits, and nothing comes twice."""
    rng = random.Random(0)  # noqa: S311 - picks moments, guards nothing
    async with running(Site(tmp_path, apache_kafka.bootstrap, site="streaming", epochs=1)) as site:
        await site.import_fashion(500, 100)
        vault = await site.start("run", "vault")
        edge = await site.start("run", "pi-a")
        await edge.wait_for("checkpoint.deployed")
        assert await edge.stop() == 0
        sensors = await site.start_sensors(RATE)

        await asyncio.gather(
            killed_at_work(site, "run", "ingested_samples_per_s", rng),
            killed_at_work(site, "infer", "predicted_samples_per_s", rng),
        )
        assert [sensor.exit_code for sensor in sensors] == [None, None], "the devices published all the time"
        for sensor in sensors:
            assert await sensor.stop() == 0

        await site.start("run", "pi-a")
        companion = await site.start("infer", "pi-a")
        await site.assert_each_archived_once(vault)
        await site.assert_each_predicted_once(companion)
