"""A group that loses all of its log, as real processes on Apache Kafka: deleted by retention, or recreated."""

import asyncio
from collections.abc import Iterator

import pytest
from confluent_kafka import OFFSET_END, TopicPartition
from confluent_kafka.admin import AdminClient

from edged.cli.demo.processes import Child
from edged.domain.topology.topics import topics
from tests.support.brokers import Apache, Broker, need_apache
from tests.support.gradient_gate import GradientGate, gated
from tests.support.real_group import MIDDLE, Group, digest, newest_checkpoint
from tests.support.site import Site, running, stopped

EDGES = ("pi-a", "pi-b", "pi-c")
LOSS = {"kafka.gap", "kafka.another_log"}
"""What a reader logs when a topic was recreated."""

IMPATIENT = {"timing": {"first_deadline_s": 12.0}}


@pytest.fixture(scope="module")
def gated_broker() -> Iterator[tuple[Broker, GradientGate]]:
    need_apache()
    with gated(Apache) as found:
        yield found


@pytest.mark.parametrize("mode", [pytest.param("all_reduce", marks=pytest.mark.slow), "parameter_server"])
async def test_a_group_stopped_for_longer_than_the_retention_resumes_from_the_newest_checkpoint(
    gated_broker, mode, tmp_path
):
    """The parameter server restarts with the members."""
    broker, gate = gated_broker
    gate.open()
    settings = {
        "site": f"away-{mode}",
        "edges": EDGES,
        "epochs": 1000,
        "more": f"exchange: {{mode: {mode}}}",
        **IMPATIENT,
    }
    async with running(Site(tmp_path, broker.bootstrap, **settings)) as site:
        await site.import_fashion(640, test_limit=100)
        children = await started(site)
        for edge in children[1:]:
            await edge.wait_for("exchange.begun", epoch=2)
        for child in children:
            await stopped(child)
        await asyncio.to_thread(delete_records, site)
        states = [newest_checkpoint(site, name) for name in EDGES]
        newest = max(state.position.step for state in states)
        site.configure(epochs=max(state.position.epoch for state in states) + 5)
        gate.hold_from(newest)  # nobody continues before all have restarted
        _vault, *edges = await started(site)
        for edge in edges:
            await edge.wait_for("exchange.joined")
        gate.open()

        await assert_all_finish(site, edges)
        for edge, state in zip(edges, states, strict=True):
            assert edge.seen("exchange.adopted")[0]["generation"] == newest
            assert edge.seen("train.started")[0]["step"] == state.position.step


async def test_a_group_whose_topics_are_recreated_in_its_first_epoch_resumes_from_its_members_state(
    gated_broker, tmp_path
):
    broker, gate = gated_broker
    settings = {"site": "anew", "edges": EDGES, "epochs": 3, "more": "exchange: {mode: all_reduce}", **IMPATIENT}
    async with running(Site(tmp_path, broker.bootstrap, **settings), excused=LOSS) as site:
        group = Group(site, gate)
        await group.start()
        await group.go_to(MIDDLE)
        await asyncio.to_thread(delete_topics, site)
        await site.edged("topics", str(site.topology), "--apply")
        gate.hold_from(MIDDLE + 1)  # nobody continues before all have resumed
        edges = [group.edges[name] for name in EDGES]
        for edge in edges:
            await edge.wait_for("exchange.adopted")
        gate.open()

        await assert_all_finish(site, edges)
        for edge in edges:
            assert edge.seen("exchange.log_lost")
            assert {line["generation"] for line in edge.seen("exchange.adopted")} == {MIDDLE}


async def started(site: Site) -> list[Child]:
    """Start the archive node and all edges."""
    return [await site.start("run", name) for name in ("vault", *EDGES)]


async def assert_all_finish(site: Site, edges: list[Child]) -> None:
    """Let them train to the end, all members in the last epoch, and end with the same bits."""
    for edge in edges:
        await edge.wait_for("train.finished")
    assert all(len(edge.seen("exchange.begun")[-1]["shares"]) == len(EDGES) for edge in edges)
    for edge in edges:
        await stopped(edge)
    assert len({digest(newest_checkpoint(site, name)) for name in EDGES}) == 1


def delete_records(site: Site) -> None:
    """Delete all records of the group's log, as retention would."""
    [job] = site.loaded().jobs
    names = {site.loaded().train_topic(job), site.loaded().gradients_topic(job)}
    client = admin(site)
    existing = names & client.list_topics().topics.keys()
    for deleted in client.delete_records([TopicPartition(name, 0, OFFSET_END) for name in existing]).values():
        assert deleted.result().low_watermark > 0


def delete_topics(site: Site) -> None:
    """Delete the group's log and checkpoints topics."""
    [job] = site.loaded().jobs
    names = {site.loaded().train_topic(job), site.loaded().checkpoints_topic(job)}
    assert names <= {topic.name for topic in topics(site.loaded())}
    client = admin(site)
    for deleted in client.delete_topics(sorted(names), operation_timeout=30).values():
        deleted.result()


def admin(site: Site) -> AdminClient:
    return AdminClient({"bootstrap.servers": ",".join(site.loaded().kafka.bootstrap)})
