"""A site on three brokers, whose leader is killed, and whose next one freezes, while a group trains and devices stream.

One broker leads all of the site's topics, so that all nodes lose all of it at once.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from edged.cli.demo.processes import Child
from edged.domain.topology.topics import topics
from edged.ports import TopicSpec
from tests.support.kafka_cluster import KafkaCluster
from tests.support.real_group import FreeGroup
from tests.support.site import Site, eventually, following, running, stopped, until_archived

SETTINGS = {"edges": ("pi-a", "pi-b", "pi-c"), "epochs": 1000, "more": "exchange: {mode: all_reduce}"}


async def test_another_leader_takes_over_and_nothing_is_lost_or_doubled(
    fresh_kafka_cluster: KafkaCluster, tmp_path: Path
) -> None:
    cluster = fresh_kafka_cluster
    async with running(Site(tmp_path, cluster.bootstrap, **SETTINGS)) as site:
        await asyncio.to_thread(let_one_lead, cluster, site)
        group = FreeGroup(site)
        await group.start()
        companion = await site.start("infer", "pi-a")
        await companion.wait_for("infer.model_loaded")
        sensors = await site.start_sensors(rate=5)
        await until_archived(group.vault, 20)
        nodes = [group.vault, *group.edges.values(), companion, *sensors]
        log = group.history.partition.topic

        leader = await asyncio.to_thread(cluster.leader, log)
        await all_go_on_without(lambda: asyncio.to_thread(leader.stop, signal.SIGKILL), group, nodes)
        await asyncio.to_thread(leader.start)
        await until_whole(cluster, log, group.vault)

        leader = await asyncio.to_thread(cluster.leader, log)
        await all_go_on_without(lambda: asyncio.to_thread(leader.pause), group, nodes)
        await asyncio.to_thread(leader.resume)
        await until_whole(cluster, log, group.vault)
        await trained_on(group)

        for sensor in sensors:
            await stopped(sensor)
        await site.assert_each_archived_once(group.vault)
        await site.assert_each_predicted_once(companion)
        await group.stop()


async def all_go_on_without(harm: Callable[[], Awaitable[object]], group: FreeGroup, nodes: list[Child]) -> None:
    """Each node says that Kafka does not answer, and then that it does, while the harmed broker is still away."""
    outages = [asyncio.ensure_future(outage(node)) for node in nodes]
    await asyncio.sleep(0)
    await harm()
    await asyncio.gather(*outages)
    await trained_on(group)


async def outage(node: Child) -> None:
    """Return when the node's next outage of Kafka is over."""
    recovered = len(node.seen("health.recovered", part="kafka")) + 1
    await following(node, "health.degraded", part="kafka")
    await node.wait_for("health.recovered", recovered, part="kafka")


async def trained_on(group: FreeGroup) -> None:
    """Each edge begins two more epochs."""
    await asyncio.gather(*(following(edge, "train.epoch", 2) for edge in group.edges.values()))


async def until_whole(cluster: KafkaCluster, topic: str, node: Child) -> None:
    """All three brokers have all of the topic again."""

    async def is_whole() -> bool:
        return await asyncio.to_thread(cluster.is_whole, topic)

    await eventually(is_whole, node)


def let_one_lead(cluster: KafkaCluster, site: Site) -> None:
    """Create the site's topics with one leader for all."""
    cluster.create(
        [
            NewTopic(topic.name, 1, replica_assignment=[[1, 2, 3]], config=TopicSpec(*topic).settings)
            for topic in topics(site.loaded())
        ]
    )
