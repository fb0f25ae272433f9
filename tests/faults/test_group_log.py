"""A group whose log suffers, as real processes on Apache Kafka: its broker dies, its beginning is deleted."""

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
async def place(tmp_path_factory):
    """Three edges in the middle of their training, held, and their broker."""
    need_apache()
    folder = tmp_path_factory.mktemp("log")
    with gated(Apache) as (broker, gate):
        async with running(Site(folder, broker.bootstrap, **SETTINGS)) as site:
            group = Group(site, gate)
            await group.start()
            yield group, broker
            await group.stop()


async def test_a_broker_that_dies_and_comes_back_costs_nothing_but_time(place):
    """Killed while all wait for an answer to a gradient, and with nothing on its way from them to be lost."""
    group, broker = place
    step = await group.reach_middle()
    await asyncio.to_thread(broker.stop, signal.SIGKILL)
    for edge in group.edges.values():
        await edge.wait_for("health.degraded", part="kafka")
    await asyncio.to_thread(broker.start)
    await group.held()
    await group.go_to(step + 1)

    assert group.history.contributors(step) == EDGES
    await group.assert_all_go_on()


async def test_back_before_the_beginning_of_the_log_it_adopts_the_announced_checkpoint(place, tmp_path):
    """Its own checkpoint is older than what retention has left of the log."""
    group, _ = place
    await group.reach_middle()
    shutil.copytree(group.site.state("pi-b"), tmp_path / "old")
    await group.assert_all_go_on()
    await group.kill("pi-b")
    group.replays_from = shutil.copy(newest_file(group.site, "pi-a"), tmp_path)
    announced = newest_checkpoint(group.site, "pi-a")
    offset = state_json.from_json(announced.exchange).next_offset
    await asyncio.to_thread(delete_records, group, offset)
    shutil.rmtree(group.site.state("pi-b"))
    shutil.copytree(tmp_path / "old", group.site.state("pi-b"))
    back = await group.bring_back("pi-b")

    [lost], [adopted] = back.seen("exchange.log_lost"), back.seen("exchange.adopted")
    assert lost["wanted_offset"] < lost["first_offset"] == offset
    assert adopted.items() >= {"offset": offset, "generation": announced.generation}.items()
    await group.assert_all_go_on()


def delete_records(group: Group, offset: int) -> None:
    """As retention would: the log begins at `offset`."""
    topic, partition = group.history.partition
    client = AdminClient({"bootstrap.servers": ",".join(group.site.loaded().kafka.bootstrap)})
    [deleted] = client.delete_records([TopicPartition(topic, partition, offset)]).values()
    assert deleted.result().low_watermark == offset
