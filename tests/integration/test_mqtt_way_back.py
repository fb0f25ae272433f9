"""The whole way by MQTT and back: sensor, Mosquitto, edge, Kafka, companion, edge, Mosquitto, device."""

import asyncio
import contextlib
import random
import signal
from collections import Counter

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.mqtt import PahoBroker
from edged.cli.demo.receivers import Receivers
from tests.support.mosquitto import Mosquitto, need_mosquitto
from tests.support.site import DEVICES, Site, at_work, eventually, following, running

KILLS = 3
COUNT, RATE = 500, 50.0
REPEATED_S = 5
"""Of what was acknowledged, a killed edge sends again what it had not committed: a second's, and the commit takes time
on a busy machine."""


@contextlib.asynccontextmanager
async def receiving(site, device):
    """The device is there, and subscribes."""
    topology = site.loaded()
    receivers = Receivers(topology)
    async with PahoBroker(topology.mqtt, RecordingHealth()) as broker, asyncio.TaskGroup() as group:
        task = group.create_task(receivers.receive(broker, device))
        yield receivers
        task.cancel()


async def came(receivers, wanted, edge):
    """Wait until all these predictions have come, and see that no others have."""

    async def enough():
        return wanted <= set(places(receivers))

    assert wanted
    await eventually(enough, edge)
    assert set(places(receivers)) == wanted


def places(receivers):
    return Counter((each.device, each.partition, each.offset) for each in receivers.identities)


@pytest.mark.slow
async def test_killed_in_between_an_edge_loses_no_prediction_of_a_device_that_is_there_or_comes_later(
    apache_kafka, tmp_path
):
    """kill -9 of the edge while it carries samples one way and predictions the other; one device is there at the end
    alone, and sends once more.
    """
    need_mosquitto()
    rng = random.Random(0)  # noqa: S311 - picks moments, guards nothing
    with Mosquitto() as mosquitto:
        settings = {"site": "by-mqtt", "epochs": 1, "mqtt": f"127.0.0.1:{mosquitto.port}"}
        async with running(Site(tmp_path, apache_kafka.bootstrap, **settings)) as site:
            _vault, edge, companion = await site.serve()
            async with receiving(site, "cam-01") as there:
                source = ("--from", "fashion-mnist-small", "--rate", str(RATE), "--count")
                sensors = [await site.start("sensor", device, *source, str(COUNT)) for device in DEVICES]
                for _ in range(KILLS):
                    await at_work(edge, "bridged_records_per_s")
                    await following(companion, "res.sample", rng.randint(1, 8))
                    edge.signal(signal.SIGKILL)
                    assert await edge.ended() == -signal.SIGKILL
                    edge = await site.start("run", "pi-a")
                assert [await sensor.ended() for sensor in sensors] == [0, 0]
                async with receiving(site, "cam-02") as late:
                    assert await (await site.start("sensor", "cam-02", *source, "1")).ended() == 0
                    await site.assert_each_predicted_once(companion)
                    predicted = await site.predicted()
                    for receivers, device in ((there, "cam-01"), (late, "cam-02")):
                        wanted = {place for place in predicted if place[0] == device}
                        await came(receivers, wanted, edge)
                        assert places(receivers).total() - len(wanted) <= KILLS * RATE * REPEATED_S
