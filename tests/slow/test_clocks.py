"""A site whose topics keep their writers' time, as those that others made do, under each wrong clock from its start."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from edged.domain.topology.topics import topics
from tests.support.brokers import Apache, Broker
from tests.support.clock import CLOCKS, Clock, tidy_kafka
from tests.support.preloaded import need_compiler
from tests.support.site import Site, running, stopped

SENSOR = ("--from", "fashion-mnist-small", "--count", "100", "--rate", "50")


@pytest.fixture
def broker(need_broker: Callable[[type[Broker]], None]) -> Iterator[Apache]:
    need_broker(Apache)
    with tidy_kafka() as broker:
        yield broker


@pytest.mark.parametrize("away", ["vault", "pi-a"])
@pytest.mark.parametrize("ahead_s", CLOCKS, ids=CLOCKS.values())
async def test_topics_with_their_writers_time_lose_and_double_nothing(
    broker: Apache, tmp_path: Path, ahead_s: float, away: str
) -> None:
    need_compiler()
    async with running(Site(tmp_path, broker.bootstrap, epochs=1)) as site:
        await asyncio.to_thread(make_topics, broker, site)
        clock = Clock(tmp_path / "clock")
        site.more_environment = clock.environment
        clock.set(ahead_s)
        vault, edge, companion = await site.serve(images=200)
        await stopped(vault if away == "vault" else edge)
        sensor = await site.start("sensor", "cam-01", *SENSOR)
        assert await sensor.ended() == 0
        if away == "vault":
            vault = await site.start("run", "vault")
        else:
            edge = await site.start("run", "pi-a")
        await site.assert_each_archived_once(vault)
        clock.set(0)
        sensor = await site.start("sensor", "cam-02", *SENSOR)
        assert await sensor.ended() == 0
        await site.assert_each_archived_once(vault)
        await site.assert_each_predicted_once(companion)


def make_topics(broker: Apache, site: Site) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    settings = {"message.timestamp.type": "CreateTime"}
    names = [topic.name for topic in topics(site.loaded())]
    for made in admin.create_topics([NewTopic(name, 1, 1, config=settings) for name in names]).values():
        made.result()
