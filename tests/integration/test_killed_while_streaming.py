"""An edge and its companion, killed again and again while samples stream: each sample has its effect once."""

import random
import signal

from tests.support.site import Site, at_work, following, running, stopped

KILLS = 3
RATE = 150.0


async def test_killed_while_samples_stream_each_is_archived_and_predicted_once(apache_kafka, tmp_path):
    """kill -9 of edge and companion, both several times: what came meanwhile waits, and nothing comes twice."""
    rng = random.Random(0)  # noqa: S311 - picks moments, guards nothing
    async with running(Site(tmp_path, apache_kafka.bootstrap, site="streaming", epochs=1, flush="100ms")) as site:
        await site.import_fashion(500, 100)
        vault = await site.start("run", "vault")
        edge = await site.start("run", "pi-a")
        await edge.wait_for("checkpoint.deployed")
        await stopped(edge)
        sensors = await site.start_sensors(RATE)

        for _ in range(KILLS):
            edge, companion = await site.start("run", "pi-a"), await site.start("infer", "pi-a")
            await at_work(edge, "ingested_samples_per_s")
            await at_work(companion, "predicted_samples_per_s")
            for node in (companion, edge):
                await following(vault, "archive.flushed", rng.randint(1, 8))  # a moment unlike those of the node
                node.signal(signal.SIGKILL)
                assert await node.ended() == -signal.SIGKILL
        assert [sensor.exit_code for sensor in sensors] == [None, None], "the devices published all the time"
        for sensor in sensors:
            await stopped(sensor)

        await site.start("run", "pi-a")
        companion = await site.start("infer", "pi-a")
        await site.assert_each_archived_once(vault)
        await site.assert_each_predicted_once(companion)
