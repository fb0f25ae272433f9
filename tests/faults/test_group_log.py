"""A group with a damaged log, as real processes on Apache Kafka: its broker dies, or its beginning is deleted."""

import asyncio
import shutil
import signal

import pytest
import pytest_asyncio
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from edged.domain.group import state_json
from tests.support.brokers import Apache, need_apache
from tests.support.gradient_gate import gated
from tests.support.real_group import Group, newest_checkpoint, newest_file
from tests.support.site import Site, running

pytestmark = pytest.mark.asyncio(loop_scope="module")
EDGES = ("pi-a", "pi-b", "pi-c")
SETTINGS = {"edges": EDGES, "epochs": 1000, "more": "exchange: {mode: all_reduce}"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def group_and_broker(tmp_path_factory):
    """Three edges in the middle of their training, held, and their broker."""
    need_apache()
    folder = tmp_path_factory.mktemp("log")
    with gated(Apache) as (broker, gate):
        async with running(Site(folder, broker.bootstrap, **SETTINGS)) as site:
            group = Group(site, gate)
            await group.start()
            yield group, broker
            await group.stop()


async def test_a_broker_that_is_killed_and_restarted_costs_nothing_but_time(group_and_broker):
    """Killed while all wait for the acknowledgement of a gradient, so that no other request is lost."""
    group, broker = group_and_broker
    step = await group.reach_middle()
    await asyncio.to_thread(broker.stop, signal.SIGKILL)
    for edge in group.edges.values():
        await edge.wait_for("health.degraded", part="kafka")
    await asyncio.to_thread(broker.start)
    await group.held()
    await group.go_to(step + 1)

    assert group.history.contributors(step) == EDGES
    await group.assert_all_continue()


async def test_a_member_restarted_before_the_logs_beginning_adopts_the_published_checkpoint(group_and_broker, tmp_path):
    """Its own checkpoint is older than what retention left of the log."""
    group, _ = group_and_broker
    await group.reach_middle()
    shutil.copytree(group.site.state("pi-b"), tmp_path / "old")
    await group.assert_all_continue()
    await group.kill("pi-b")
    group.replays_from = shutil.copy(newest_file(group.site, "pi-a"), tmp_path)
    published = newest_checkpoint(group.site, "pi-a")
    offset = state_json.from_json(published.exchange).next_offset
    await asyncio.to_thread(delete_records, group, offset)
    shutil.rmtree(group.site.state("pi-b"))
    shutil.copytree(tmp_path / "old", group.site.state("pi-b"))
    back = await group.restart("pi-b")

    [lost], [adopted] = back.seen("exchange.log_lost"), back.seen("exchange.adopted")
    assert lost["wanted_offset"] < lost["first_offset"] == offset
    assert adopted.items() >= {"offset": offset, "generation": published.generation}.items()
    await group.assert_all_continue()


def delete_records(group: Group, offset: int) -> None:
    """Delete the records before `offset`, as retention would."""
    topic, partition = group.history.partition
    client = AdminClient({"bootstrap.servers": ",".join(group.site.loaded().kafka.bootstrap)})
    [deleted] = client.delete_records([TopicPartition(topic, partition, offset)]).values()
    assert deleted.result().low_watermark == offset
