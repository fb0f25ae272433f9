"""SIGTERM, at any time and with any broker: every node ends by itself, in time, with exit code 0."""

import signal

import pytest

from edged.cli.demo.processes import Child
from tests.support.disk import Disk
from tests.support.site import Site, at_work, following, own_name, running


async def assert_they_end(nodes: list[Child]) -> None:
    """Stop them all at once; a node that did not end by itself in time would have logged `life.abandoned`."""
    for node in nodes:
        node.signal(signal.SIGTERM)
    assert [await node.ended() for node in nodes] == [0] * len(nodes), [node.last_words() for node in nodes]
    for node in nodes:
        assert [line["event"] for line in list(node.lines)[-1:]] == ["life.stopped"]
        assert not node.seen("life.abandoned")


async def test_nodes_end_that_never_saw_a_broker(down_embedded_broker, tmp_path):
    async with running(Site(tmp_path, down_embedded_broker.bootstrap)) as site:
        nodes = await site.start_nodes()
        for node in nodes:
            await node.wait_for("life.ready")

        await assert_they_end(nodes)


@pytest.mark.parametrize("is_noticed", [False, True])
async def test_nodes_end_whose_broker_hangs(is_noticed, fresh_embedded_broker, tmp_path):
    """In the middle of their work, before they have noticed and after; what they had to save is saved."""
    async with running(Site(tmp_path, fresh_embedded_broker.bootstrap, epochs=200, source="both")) as site:
        await site.import_fashion(1000, 100)
        sensors = await site.start_sensors(50)
        vault, edge, companion = nodes = await site.start_nodes()
        await following(vault, "archive.flushed")
        await at_work(companion, "predicted_samples_per_s")

        fresh_embedded_broker.pause()
        for sensor in sensors:
            sensor.signal(signal.SIGKILL)
        if is_noticed:
            for node in nodes:
                await node.wait_for("health.degraded", part="kafka")
        await assert_they_end(nodes)
        saved = edge.seen("checkpoint.saved")[-1]

        fresh_embedded_broker.resume()
        edge = await site.start("run", "pi-a")
        started = await edge.wait_for("train.started")
        assert (started["step"], started["resumed"]) == (saved["generation"], True)


async def test_a_second_signal_ends_a_node_at_once_and_the_next_start_resumes(embedded_broker, tmp_path):
    """Of one that cannot end, since its last checkpoint is on a disk that hangs."""
    site = Site(tmp_path, embedded_broker.bootstrap, site=own_name(tmp_path), epochs=100_000, checkpoint="1s")
    disk = Disk(tmp_path / "pi-a.disk", tmp_path / "pi-a")
    async with running(site, {"life.abandoned"}):
        await site.import_fashion(100, 100)
        await site.start("run", "vault")
        site.more_environment = disk.environment
        edge = await site.start("run", "pi-a")
        await edge.wait_for("checkpoint.saved")

        disk.slow(600)
        await edge.wait_for("health.degraded", part="disk")
        edge.signal(signal.SIGTERM)
        await edge.wait_for("life.stopping")
        edge.signal(signal.SIGTERM)
        assert await edge.ended() == 1
        assert edge.seen("life.abandoned")[-1]["reason"] == "a second signal"
        saved = edge.seen("checkpoint.saved")[-1]

        disk.heal()
        edge = await site.start("run", "pi-a")
        started = await edge.wait_for("train.started")
        assert started["resumed"]
        assert started["step"] >= saved["generation"]
