"""What an IoT device sees of edged: its samples arrive, its predictions come back."""

import asyncio
import contextlib
from dataclasses import replace

import numpy as np
import pytest

from edged.adapters.images import PillowDecoder
from edged.adapters.memory.log import MemoryLog
from edged.device import Device
from edged.device.kafka import MAX_IN_FLIGHT
from edged.errors import ConfigError, RejectedRecord
from edged.ports import Message
from tests.services.inference.test_companion import HIGH, LOW, PREDICTIONS, companion, running
from tests.support.fake_edge import predicted
from tests.support.greenhouse import SHAPE, topology

CAM = "greenhouse.iot.cam"


def device(log, name="cam", codec="raw", **options):
    return Device(topology(codec), name, log=log, **options)


async def take(predictions, count):
    found = []
    async with asyncio.timeout(120):
        async for each in predictions:
            found.append(each)
            if len(found) == count:
                return found
    raise AssertionError


async def test_a_sample_is_published_under_the_devices_topic_with_its_label_as_the_key():
    log = MemoryLog()
    async with device(log) as cam:
        assert len({await cam.publish(HIGH, "high"), await cam.publish(LOW)}) == 2
    assert [(record.key, record.value) for record in log.records(CAM)] == [(b"high", HIGH), (None, LOW)]


async def test_arrays_are_published_in_the_devices_codec():
    pixels = np.full(SHAPE, 200, np.uint8)
    for codec in ("raw", "png"):
        log = MemoryLog()
        async with device(log, codec=codec) as cam:
            await cam.publish_array(pixels, "high")
        (record,) = log.records(CAM)
        if codec == "raw":
            assert record.value == pixels.tobytes()
        else:
            np.testing.assert_array_equal(PillowDecoder().decode(record.value, codec, SHAPE), pixels)


async def test_a_float_array_is_published_in_little_endian_order():
    log = MemoryLog()
    async with device(log, "meter") as meter:
        await meter.publish_array(np.array([1.5, 2, 3, 4], np.float32))
    assert np.frombuffer(log.records("greenhouse.iot.meter")[0].value, "<f4").tolist() == [1.5, 2, 3, 4]


async def test_what_the_edge_would_reject_is_rejected_before_anything_is_published():
    log = MemoryLog()
    async with device(log) as cam:
        for attempt in (
            cam.publish(b""),
            cam.publish(HIGH, "no such label"),
            cam.publish(HIGH, "hi\udce9gh"),
            cam.publish_many([(HIGH, None), (HIGH[:-1], None)]),
            cam.publish_array(np.zeros((3, 2, 1), np.uint8)),
            cam.publish_array(np.zeros(SHAPE, np.float32)),
        ):
            with pytest.raises(RejectedRecord):
                await attempt
    async with device(log, codec="jpeg") as cam:
        with pytest.raises(RejectedRecord):
            await cam.publish_array(np.zeros((2, 3), np.uint8))
        with pytest.raises(RejectedRecord, match="not_an_image"):
            await cam.publish(b"junk")
    async with device(log, "meter") as meter:
        with pytest.raises(RejectedRecord, match="is it little-endian float32"):
            await meter.publish(np.array([1, 2, 3, 4], ">f4").tobytes())
    assert log.records(CAM) == log.records("greenhouse.iot.meter") == []


async def test_what_is_no_bytes_or_no_text_is_called_so():
    log = MemoryLog()
    async with device(log) as cam:
        for payload, label, said in (
            (bytearray(HIGH), None, "a payload is bytes, not bytearray"),
            (HIGH, 7, "a label is"),
        ):
            with pytest.raises(TypeError, match=said):
                await cam.publish(payload, label)
    assert log.records(CAM) == []


async def test_many_samples_are_published_in_order_with_a_bounded_number_in_flight():
    sizes = []

    class Counting(MemoryLog):
        async def append(self, messages, **options):
            sizes.append(len(messages))
            return await super().append(messages, **options)

    log = Counting()
    async with device(log) as cam:
        assert len(set(await cam.publish_many([(HIGH, None)] * 600))) == 600
    assert sizes == [MAX_IN_FLIGHT, MAX_IN_FLIGHT, 88]


@pytest.mark.looptime
async def test_a_device_receives_the_predictions_of_its_own_samples():
    log = MemoryLog()
    async with device(log) as cam, device(log, "cam-2") as other, running(companion(log)):
        await cam.publish_many([(HIGH, "high"), (LOW, "low")])
        await other.publish(HIGH)
        (received,) = await take(other.predictions(), 1)
        assert (received.device, received.label) == ("cam-2", "high")
        assert [(each.offset, each.label) for each in await take(cam.predictions(), 2)] == [(0, "high"), (1, "low")]


@pytest.mark.looptime
async def test_a_device_receives_the_predictions_of_all_jobs_of_its_stream_and_of_no_other():
    one = topology()
    (job,) = one.jobs
    jobs = tuple(
        replace(job, name=name, stream=stream) for name, stream in (("a", "climate"), ("b", "tiles"), ("c", "tiles"))
    )
    log = MemoryLog()
    async with Device(replace(one, jobs=jobs), "cam", log=log) as cam:
        sample_id = await cam.publish(HIGH)
        for name in "abc":
            value = predicted("cam", sample_id, f"by {name}")
            await log.append([Message(f"greenhouse.predictions.pi.{name}", value, key=b"cam")])
        assert {each.label for each in await take(cam.predictions(), 2)} == {"by b", "by c"}


@pytest.mark.looptime
async def test_leaving_the_loop_loses_no_prediction():
    log = MemoryLog()
    async with device(log) as cam, running(companion(log)):
        await cam.publish_many([(HIGH, None)] * 20)
        offsets = [(await take(cam.predictions(), 1))[0].offset for _ in range(20)]
    assert offsets == list(range(20))


@pytest.mark.looptime
async def test_only_predictions_published_since_entering_are_received():
    log = MemoryLog()
    async with running(companion(log)):
        async with device(log) as cam:
            await cam.publish(LOW)
            await take(cam.predictions(), 1)
        async with device(log) as cam:
            await cam.publish(HIGH)
            assert [each.offset for each in await take(cam.predictions(), 1)] == [1]


@pytest.mark.looptime
async def test_a_message_that_is_no_prediction_is_skipped(log_lines):
    log = MemoryLog()
    async with device(log) as cam:
        await log.append([Message(PREDICTIONS, b"{}", key=b"cam")])
        async with running(companion(log)):
            await cam.publish(HIGH)
            assert (await take(cam.predictions(), 1))[0].label == "high"
    assert [line["offset"] for line in log_lines("sensor.prediction_skipped")] == [0]


@pytest.mark.looptime
async def test_a_device_that_only_publishes_does_not_read_the_predictions():
    class Guarded(MemoryLog):
        async def watermarks(self, partitions):
            raise AssertionError

    async with device(Guarded(), receive=False) as cam:
        assert await cam.publish(HIGH)


@pytest.mark.looptime
async def test_publishing_waits_for_a_broker_that_is_away():
    log = MemoryLog()
    async with device(log) as cam:
        log.unavailable = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(120):
                await cam.publish(HIGH)
        log.unavailable = False
        assert await cam.publish(HIGH)


async def test_a_device_needs_no_topology_file():
    log = MemoryLog()
    async with Device.at("broker:9092", site="s", name="n", edge="e", shape=(2, 2, 1), labels=["a"], log=log) as gadget:
        await gadget.publish(bytes(4), "a")
    assert log.records("s.iot.n")[0].key == b"a"


async def test_a_label_is_published_in_its_normal_form():
    log, labels = MemoryLog(), ["Mo\u0308hre"]
    async with Device.at("broker:9092", site="s", name="n", edge="e", shape=(2,), labels=labels, log=log) as gadget:
        await gadget.publish(bytes(2), "Mo\u0308hre")
    assert log.records("s.iot.n")[0].key == "M\u00f6hre".encode()


FILE = """
schema: 1
site: greenhouse
kafka: {bootstrap: ["localhost:1"]}
streams: {fashion: {sample: {shape: [2, 2, 1], dtype: uint8}, labels: [a]}}
iot: [{name: cam-01, edge: pi, stream: fashion}]
edges: [{name: pi}]
archive: [{name: vault, url: "file:///srv/edged"}]
"""


async def test_a_device_may_be_given_the_path_of_the_topology_file(tmp_path):
    path = tmp_path / "topology.yaml"
    path.write_text(FILE)
    log = MemoryLog()
    for topology_file in (path, str(path)):
        async with Device(topology_file, "cam-01", log=log) as cam:
            await cam.publish(bytes(4))
    assert len(log.records("greenhouse.iot.cam-01")) == 2
    with pytest.raises(ConfigError, match='did you mean "cam-01"'):
        Device(path, "cam-1")


def test_a_device_on_mqtt_says_which_of_its_login_is_not_here(tmp_path):
    """Not taken as it stands, the broker would refuse a user called ${MISSING} for ever."""
    path = tmp_path / "topology.yaml"
    mqtt = 'mqtt: {broker: localhost, username: "${MISSING}", password: "${cred:mqtt-password}"}'
    path.write_text(f"{FILE}{mqtt}\n".replace("stream: fashion}", "stream: fashion, transport: mqtt}"))
    with pytest.raises(ConfigError) as raised:
        Device(path, "cam-01")
    assert [each.path for each in raised.value.problems] == ["mqtt.username", "mqtt.password"]
