"""A site whose broker stops answering, goes away, or is not there yet, on real processes."""

import asyncio
from datetime import UTC, datetime

import pytest

from edged.cli.demo.processes import Child
from tests.support.brokers import Broker
from tests.support.site import SAMPLE_S, Site, at_work, degraded, following, moment, running, stopped

AWAY_SAMPLES = round(20 / SAMPLE_S)
"""Lines of `res.sample` in 20 s."""
ENDLESS = 1000
"""Epochs."""
RATE = 20.0


async def all_at_work(vault: Child, edge: Child, companion: Child) -> None:
    """Return while the edge trains, and samples are ingested, archived and predicted."""
    await edge.wait_for("train.epoch", epoch=0)
    await at_work(edge, "ingested_samples_per_s")
    await at_work(companion, "predicted_samples_per_s")
    await following(vault, "archive.flushed")


async def outlive(site: Site, broker: Broker, *, paused: bool) -> None:
    """The broker goes away while everything works, and comes back after 20 s."""
    await site.import_fashion(6000, 200)
    sensors = await site.start_sensors(RATE)
    vault, edge, companion = nodes = await site.start_nodes()
    await all_at_work(vault, edge, companion)

    await asyncio.to_thread(broker.pause if paused else broker.stop)
    gone = datetime.now(UTC)
    for node in (*nodes, *sensors):
        await degraded(node, "kafka", since=gone)
    await edge.until(
        lambda lines: sum(line["event"] == "res.sample" and moment(line) > gone for line in lines) >= AWAY_SAMPLES
    )
    await asyncio.to_thread(broker.resume if paused else broker.start)

    for node in (*nodes, *sensors):
        await node.wait_for("health.recovered", part="kafka")
    for sensor in sensors:
        await stopped(sensor)
    await following(edge, "train.epoch", 3)  # more than it can have had in hand
    await site.assert_each_archived_once(vault)
    await site.assert_each_predicted_once(companion)
    for node in nodes:
        assert len(node.seen("health.degraded")) == len(node.seen("health.recovered")), node.last_words()


async def test_a_broker_that_hangs_for_20_s_is_waited_for(fresh_embedded_broker, tmp_path):
    """Every node says so within 10 s and recovers; no sample is lost or comes twice, and training goes on."""
    async with running(Site(tmp_path, fresh_embedded_broker.bootstrap, epochs=ENDLESS, source="both")) as site:
        await outlive(site, fresh_embedded_broker, paused=True)


@pytest.mark.slow
async def test_a_broker_that_is_stopped_for_20_s_is_waited_for(fresh_apache_kafka, tmp_path):
    """Connections are refused, then there is the same broker again: as above."""
    async with running(Site(tmp_path, fresh_apache_kafka.bootstrap, epochs=ENDLESS, source="both")) as site:
        await outlive(site, fresh_apache_kafka, paused=False)


async def test_a_broker_that_is_not_there_at_boot_is_waited_for(down_embedded_broker, tmp_path):
    """The nodes are ready and degraded, and say so within 10 s; when the broker comes, they begin their work."""
    async with running(Site(tmp_path, down_embedded_broker.bootstrap, epochs=2, source="both")) as site:
        await site.import_fashion(1000, 200)
        vault, edge, companion = nodes = await site.start_nodes()
        for node in nodes:
            started = moment(await node.wait_for("life.started"))
            await node.wait_for("life.ready")
            await degraded(node, "kafka", since=started)
        assert [node.exit_code for node in nodes] == [None] * 3

        await asyncio.to_thread(down_embedded_broker.start)
        sensors = await site.start_sensors(RATE)
        await edge.wait_for("train.finished")
        await at_work(companion, "predicted_samples_per_s")
        for sensor in sensors:
            await stopped(sensor)
        await site.assert_each_archived_once(vault)
        await site.assert_each_predicted_once(companion)
