"""Devices over a real Mosquitto: the library, and `edged sensor`; with the edge's bridge at the other end."""

import asyncio
import sys

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.mqtt import PahoBroker
from edged.device import Device
from edged.domain.mqtt import topics
from edged.domain.samples import returned
from tests.support.bridged import SITE, bridged
from tests.support.fake_edge import predicted
from tests.support.mosquitto import Mosquitto, need_mosquitto


@pytest.fixture
def mosquitto():
    need_mosquitto()
    with Mosquitto() as broker:
        yield broker


def device(mosquitto, **options):
    words = {"site": SITE, "name": "cam", "edge": "pi", "shape": (4,), "labels": ["low", "high"]}
    return Device.at(mosquitto.mqtt(), **words | options)


async def test_samples_arrive_with_label_time_and_id_and_predictions_come_back(mosquitto):
    async with asyncio.timeout(60), bridged(mosquitto.mqtt(), "cam") as log, device(mosquitto) as cam:
        ids = [await cam.publish(b"abcd", "high", sampled_ms=17), await cam.publish(b"efgh")]
        records = log.records(f"{SITE}.iot.cam")
        assert [(each.key, each.value, returned.sample_id(each.headers)) for each in records] == [
            (b"high", b"abcd", ids[0]),
            (None, b"efgh", ids[1]),
        ]
        assert dict(records[0].headers)["edged-sampled-ms"] == b"17"
        async with (
            PahoBroker(mosquitto.mqtt(), RecordingHealth()) as broker,
            broker.session("edge", part="edge") as edge,
        ):
            await edge.connected()
            await edge.publish(topics.predictions_topic(SITE, "cam"), predicted("cam", ids[1]))
            assert (await anext(cam.predictions())).id == ids[1]


async def test_what_was_published_while_the_broker_was_away_arrives_when_it_is_back(tmp_path):
    need_mosquitto()
    with Mosquitto() as mosquitto:
        mosquitto.stop()
        async with asyncio.timeout(60), device(mosquitto, buffer=tmp_path) as cam:
            sample_id = await cam.publish(b"abcd")
            assert cam.backlog.samples == 1
            await asyncio.to_thread(mosquitto.start)
            async with bridged(mosquitto.mqtt(), "cam") as log:
                await cam.flush()
                assert [returned.sample_id(each.headers) for each in log.records(f"{SITE}.iot.cam")] == [sample_id]


LABELS = "t-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, boot"

TOPOLOGY = """
schema: 1
site: {site}
kafka: {{bootstrap: ["localhost:1"]}}
mqtt: {{broker: "{broker}"}}
streams:
  fashion:
    sample: {{shape: [28, 28, 1], dtype: uint8}}
    labels: [{labels}]
iot: [{{name: cam, edge: pi, stream: fashion, transport: mqtt, id: counter, receipts: true}}]
edges: [{{name: pi}}]
archive: [{{name: vault, url: "file:///srv/edged"}}]
"""


async def test_the_sensor_speaks_mqtt_where_its_device_does(mosquitto, tmp_path):
    path = tmp_path / "topology.yaml"
    path.write_text(TOPOLOGY.format(site=SITE, labels=LABELS, broker=mosquitto.bootstrap))
    arguments = ["--node", "cam", "--from", "fashion-mnist-small", "--count", "50", "--rate", "max"]
    async with asyncio.timeout(120), bridged(mosquitto.mqtt(), "cam", shape=(28, 28, 1)) as log:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "edged", "sensor", path, *arguments)
        assert await process.wait() == 0
        records = log.records(f"{SITE}.iot.cam")
    assert len(records) == len({returned.sample_id(each.headers) for each in records}) == 50
    assert all(each.key for each in records)
