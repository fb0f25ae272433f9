"""What a device promised is delivered: over both transports, with and without a buffer, whatever ends in between."""

import asyncio
import contextlib

import pytest

from edged.adapters.disk.sample_buffer import SampleBuffer
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.adapters.memory.mqtt import MemoryMqttBroker
from edged.device import Backlog, Buffer, Device
from edged.device.disk_outbox import DiskOutbox
from edged.domain.device.sample import Draft
from edged.domain.device.segments import MIN_BUFFER_BYTES, Bounds
from edged.domain.samples import returned
from edged.domain.topology import Mqtt
from edged.errors import (
    AlreadyRunning,
    BufferFull,
    ConfigError,
    MqttRefused,
    RejectedRecord,
    StateFolderRefused,
)
from edged.ports import BrokerLimits, Message
from tests.support.fake_edge import FakeEdge, predicted

TOPIC = "greenhouse.iot.cam"
PREDICTIONS = "greenhouse.predictions.pi"

pytestmark = pytest.mark.looptime


class KafkaBed:
    """A device on Kafka; the edge is whoever reads its topic."""

    def __init__(self):
        self.log = MemoryLog()

    def device(self, **options):
        return made("localhost:1", log=self.log, **options)

    @contextlib.asynccontextmanager
    async def edge(self):
        yield self

    @property
    def arrived(self):
        return [
            ((record.key or b"").decode(), record.value, returned.sample_id(record.headers))
            for record in self.log.records(TOPIC)
        ]

    def go_away(self, is_away):
        self.log.unavailable = is_away

    async def predict(self, sample_id, label="high"):
        await self.log.append([Message(PREDICTIONS, predicted("cam", sample_id, label), key=b"cam")])


class MqttBed:
    """A device on MQTT, with a fake edge at the other end."""

    def __init__(self, version="5"):
        self.broker = MemoryMqttBroker(RecordingHealth(), limits=BrokerLimits(version))
        self.fake_edge = FakeEdge(self.broker, "cam")

    def device(self, **options):
        return made(Mqtt("localhost:1"), broker=self.broker, **options)

    def edge(self):
        return self.fake_edge.running()

    @property
    def arrived(self):
        return self.fake_edge.arrived

    def go_away(self, is_away):
        self.broker.away = is_away

    async def predict(self, sample_id, label="high"):
        self.fake_edge.predict(sample_id, label)


def made(address, **options):
    words = {"site": "greenhouse", "name": "cam", "edge": "pi", "shape": (3,), "labels": ["low", "high"]}
    return Device.at(address, **words | options)


@pytest.fixture(params=["kafka", "mqtt", "mqtt 3.1.1"])
def bed(request):
    if request.param == "kafka":
        return KafkaBed()
    return MqttBed("5" if request.param == "mqtt" else "3.1.1")


@pytest.fixture
def mqtt():
    return MqttBed()


def payload(number):
    return number.to_bytes(3)


def jpeg(num_bytes):
    return b"\xff\xd8\xff".ljust(num_bytes, b"\0")


async def test_a_sample_arrives_with_label_time_and_id(bed):
    async with bed.edge(), bed.device() as cam:
        labelled = await cam.publish(payload(1), "high", sampled_ms=17)
        plain = await cam.publish(payload(2))
    assert bed.arrived == [("high", payload(1), labelled), ("", payload(2), plain)]


async def test_samples_arrive_in_order_and_once(bed, tmp_path):
    for buffer in (None, tmp_path):
        async with bed.edge(), bed.device(buffer=buffer) as cam:
            before = len(bed.arrived)
            ids = await cam.publish_many([(payload(number), None) for number in range(300)])
            await cam.flush()
            assert [each for _, _, each in bed.arrived[before:]] == ids
            assert len(set(ids)) == 300


async def test_with_a_buffer_publish_returns_while_the_broker_is_away_and_all_arrives_later(bed, tmp_path):
    async with bed.edge():
        bed.go_away(True)
        async with bed.device(buffer=tmp_path, receive=False) as cam:
            first = await cam.publish_many([(payload(number), "low") for number in range(20)])
            assert cam.backlog.samples == 20
            assert bed.arrived == []
        bed.go_away(False)
        async with bed.device(buffer=tmp_path, receive=False) as cam:
            second = await cam.publish(payload(99))
            await cam.flush()
            assert cam.backlog == Backlog(num_bytes=cam.backlog.num_bytes)
    assert [each for _, _, each in bed.arrived] == [*first, second]


async def test_a_program_that_gives_up_waiting_again_and_again_does_not_grow(mqtt):
    """Without a buffer each try would keep its sample for as long as the broker is away."""
    mqtt.go_away(True)
    async with mqtt.device(receive=False) as cam, mqtt.edge():
        for number in range(1000):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await cam.publish(payload(number))
        mqtt.go_away(False)
        await cam.publish(payload(1000))
        await cam.flush()
    assert mqtt.arrived[-1][1] == payload(1000)
    assert len(mqtt.arrived) < 200


async def test_without_a_buffer_publishing_waits_for_a_broker_that_is_away(bed):
    async with bed.edge(), bed.device(receive=False) as cam:
        bed.go_away(True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await cam.publish(payload(1))
        bed.go_away(False)
        async with asyncio.timeout(60):
            await cam.publish(payload(2))
    assert payload(2) in [each for _, each, _ in bed.arrived]


async def test_who_still_publishes_without_a_buffer_when_the_device_is_left_does_not_wait_for_ever(mqtt):
    async with mqtt.device() as cam:
        publishing = asyncio.create_task(cam.publish(payload(1)))
        await asyncio.sleep(1)
    await asyncio.wait([publishing], timeout=60)
    assert publishing.cancelled()


async def test_predictions_are_those_of_samples_that_this_device_published_each_once(bed):
    async with bed.edge(), bed.device() as cam:
        sample_id = await cam.publish(payload(1))
        await bed.predict("another:1")
        await bed.predict("17")
        await bed.predict(sample_id)
        await bed.predict(sample_id)
        await bed.predict(sample_id, "low")
        found = [await anext(cam.predictions()) for _ in range(2)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await anext(cam.predictions())
    assert [(each.id, each.label) for each in found] == [(sample_id, "high"), (sample_id, "low")]


async def test_predictions_of_what_an_earlier_run_has_left_in_the_buffer_are_received(bed, tmp_path):
    async with bed.edge():
        bed.go_away(True)
        async with bed.device(buffer=tmp_path, receive=False) as cam:
            sample_id = await cam.publish(payload(1))
        bed.go_away(False)
        async with bed.device(buffer=tmp_path) as cam:
            await cam.flush()
            await bed.predict(sample_id)
            assert (await anext(cam.predictions())).id == sample_id


async def test_what_the_edge_would_reject_is_not_buffered(bed, tmp_path):
    async with bed.edge(), bed.device(buffer=tmp_path) as cam:
        for attempt in (cam.publish(b"xx"), cam.publish(payload(1), "none of these")):
            with pytest.raises(RejectedRecord):
                await attempt
        assert cam.backlog.samples == 0
    assert bed.arrived == []


@pytest.mark.parametrize("sampled_ms", [10**18, 1 << 70, 0.5])
async def test_a_time_that_no_edge_reads_is_refused_and_ends_nothing(bed, tmp_path, sampled_ms):
    async with bed.edge(), bed.device(buffer=tmp_path) as cam:
        with pytest.raises(ValueError, match="sampled_ms"):
            await cam.publish(payload(1), sampled_ms=sampled_ms)
        await cam.publish(payload(1), sampled_ms=-1)
        async with asyncio.timeout(60):
            await cam.flush()
    assert len(bed.arrived) == 1


async def test_a_full_buffer_refuses_or_drops_as_it_was_told(bed, tmp_path):
    bed.go_away(True)
    options = {"shape": (500_000,), "receive": False}
    async with bed.device(buffer=Buffer(tmp_path / "a", MIN_BUFFER_BYTES), **options) as cam:
        with pytest.raises(BufferFull):
            await cam.publish_many([(bytes(500_000), None)] * 9)
        assert cam.backlog.dropped == 0
    async with bed.device(buffer=Buffer(tmp_path / "b", MIN_BUFFER_BYTES, on_full="drop_oldest"), **options) as cam:
        await cam.publish_many([(bytes(500_000), None)] * 9)
        assert cam.backlog.dropped + cam.backlog.samples == 9
        assert cam.backlog.num_bytes <= MIN_BUFFER_BYTES


async def test_one_publisher_that_finds_no_room_costs_no_other_its_sample(bed, tmp_path):
    bed.go_away(True)
    async with bed.device(buffer=Buffer(tmp_path, MIN_BUFFER_BYTES), shape=(700_000,), receive=False) as cam:
        results = await asyncio.gather(*(cam.publish(bytes(700_000)) for _ in range(8)), return_exceptions=True)
        assert [type(each) for each in results] == [str] * 5 + [BufferFull] * 3
        assert cam.backlog.samples == 5


async def test_flushing_ends_when_what_is_left_has_become_too_old(tmp_path):
    clock = [0.0]
    buffer = SampleBuffer(tmp_path, {}, Bounds(max_age_s=60), steady_s=lambda: clock[0])
    outbox = DiskOutbox(buffer)
    async with asyncio.TaskGroup() as group:
        working = group.create_task(outbox.work())
        await outbox.add([Draft(None, b"x", 0)])
        clock[0] = 100.0
        taking = group.create_task(outbox.take(1, 1))
        async with asyncio.timeout(60):
            await outbox.empty()
        working.cancel()
        taking.cancel()
    outbox.close()
    assert buffer.dropped == 1


async def test_two_devices_never_share_a_buffer(bed, tmp_path):
    async with bed.device(buffer=tmp_path, receive=False):
        with pytest.raises(AlreadyRunning):
            async with bed.device(buffer=tmp_path, receive=False):
                pass
    async with bed.device(buffer=tmp_path, receive=False) as cam:
        bed.go_away(True)
        await cam.publish(payload(1))
    with pytest.raises(StateFolderRefused, match="give each"):
        async with bed.device(buffer=tmp_path, name="other", receive=False):
            pass


async def test_an_error_of_its_program_leaves_a_device_as_it_is(bed, tmp_path):
    async def program():
        async with bed.edge(), bed.device(buffer=tmp_path, receive=False):
            raise ZeroDivisionError

    with pytest.raises(ExceptionGroup if isinstance(bed, MqttBed) else ZeroDivisionError):  # the fake edge's group
        await program()


@pytest.mark.parametrize("name", ["a/b", "+", "#", "", "x" * 65])
def test_a_name_that_no_topology_may_have_is_refused(name):
    for address in ("localhost:1", Mqtt("localhost:1")):
        with pytest.raises(ConfigError, match="is no name"):
            made(address, name=name)


async def test_over_kafka_what_a_killed_run_had_sent_is_not_sent_again(tmp_path, monkeypatch):
    bed = KafkaBed()
    async with bed.device(buffer=tmp_path, receive=False) as cam:
        ids = await cam.publish_many([(payload(number), None) for number in range(5)])
        monkeypatch.setattr(cam._outbox.buffer, "received", lambda _position: None)  # as if killed before
        await asyncio.sleep(1)
    assert [each for _, _, each in bed.arrived] == ids
    async with bed.device(buffer=tmp_path, receive=False) as cam:
        assert cam.backlog.samples == 5
        ids.append(await cam.publish(payload(9)))
        await cam.flush()
    assert [each for _, _, each in bed.arrived] == ids


async def test_over_mqtt_a_sample_without_a_receipt_stays_and_is_sent_again_by_the_next_run(mqtt, tmp_path):
    mqtt.fake_edge.answers = False
    async with mqtt.edge():
        async with mqtt.device(buffer=tmp_path) as cam:
            ids = await cam.publish_many([(payload(number), None) for number in range(5)])
            await asyncio.sleep(1)
        assert mqtt.fake_edge.ids == ids
        mqtt.fake_edge.answers = True
        async with mqtt.device(buffer=tmp_path) as cam:
            assert cam.backlog.samples == 5
            await cam.flush()
    assert mqtt.fake_edge.ids == ids * 2


async def test_over_mqtt_the_brokers_word_is_no_receipt(mqtt):
    mqtt.fake_edge.answers = False
    async with mqtt.edge(), mqtt.device() as cam:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await cam.publish(payload(1))
        assert len(mqtt.fake_edge.ids) == 1


async def test_over_mqtt_3_without_receipts_the_brokers_word_has_to_do():
    bed = MqttBed("3.1.1")
    bed.fake_edge.answers = False
    async with bed.edge(), bed.device(receipts=False) as cam:
        sample_id = await cam.publish(payload(1), "low")
    assert bed.arrived == [("low", payload(1), sample_id)]
    assert bed.fake_edge.packets[0].topic == f"greenhouse/iot/cam/low/{sample_id}"


async def test_over_mqtt_3_a_label_that_is_no_level_is_refused():
    bed = MqttBed("3.1.1")
    async with bed.edge(), bed.device(labels=["a/b"]) as cam:
        with pytest.raises(MqttRefused, match="no level of a topic"):
            await cam.publish(payload(1), "a/b")
        assert await cam.publish(payload(1))


async def test_over_mqtt_a_broker_that_forgot_gets_everything_again(mqtt, tmp_path):
    mqtt.fake_edge.answers = False
    async with mqtt.device(buffer=tmp_path) as cam:
        async with mqtt.edge():
            await asyncio.sleep(1)
        ids = await cam.publish_many([(payload(number), None) for number in range(5)])
        await asyncio.sleep(1)
        mqtt.broker.forget()
        mqtt.fake_edge.answers = True
        async with mqtt.edge(), asyncio.timeout(60):
            await cam.flush()
    assert sorted(set(mqtt.fake_edge.ids)) == sorted(ids)


async def test_over_mqtt_a_receipt_that_was_lost_is_asked_for_again(mqtt, tmp_path):
    async with mqtt.edge(), mqtt.device(buffer=tmp_path) as cam:
        mqtt.fake_edge.answers = False
        await cam.publish(payload(1))
        await asyncio.sleep(1)
        mqtt.fake_edge.answers = True
        await cam.publish(payload(2))
        async with asyncio.timeout(5):
            await cam.flush()
    assert [each for _, each, _ in mqtt.arrived] == [payload(1), payload(2), payload(1)]


async def test_over_mqtt_after_silence_one_sample_alone_is_sent_again(mqtt, tmp_path):
    mqtt.fake_edge.answers = False
    async with mqtt.edge(), mqtt.device(buffer=tmp_path) as cam:
        await cam.publish_many([(payload(number), None) for number in range(5)])
        await asyncio.sleep(3600)
        again = [each for _, each, _ in mqtt.arrived[5:]]
        assert set(again) == {payload(0)}
        assert len(again) < 15
        mqtt.fake_edge.answers = True
        async with asyncio.timeout(1300):
            await cam.flush()


async def test_over_mqtt_an_edge_that_does_not_answer_is_the_trouble_until_it_does(tmp_path, log_lines):
    """The broker takes all, so nothing else says why nothing arrives."""
    bed = MqttBed()
    async with bed.edge():
        pass  # its session stays
    async with bed.device(buffer=tmp_path) as cam:
        await cam.publish(payload(0))
        await asyncio.sleep(5.0)
        assert cam.trouble == ""
        await asyncio.sleep(10.0)
        assert "no receipt has come for 10 s: does edge pi run" in cam.trouble
        async with bed.edge():
            await cam.flush()
        assert cam.trouble == ""
    assert [(line["edge"], line["samples"]) for line in log_lines("sensor.unanswered")] == [("pi", 1)]


async def test_over_mqtt_a_sample_that_no_edge_takes_is_tried_again_and_told(mqtt, tmp_path, log_lines):
    async with mqtt.device(buffer=tmp_path) as cam:
        sample_id = await cam.publish(payload(1))
        await asyncio.sleep(30)
        assert "no edge takes the samples of cam" in cam.trouble
        async with mqtt.edge(), asyncio.timeout(60):
            await cam.flush()
        assert cam.trouble == ""
    assert mqtt.fake_edge.ids == [sample_id]
    assert len(log_lines("sensor.unsendable")) in range(1, 5)


async def test_over_mqtt_what_the_edge_refuses_for_good_is_told_and_not_sent_again(mqtt, tmp_path, log_lines):
    mqtt.fake_edge.refuses = "unknown_label"
    async with mqtt.edge(), mqtt.device(buffer=tmp_path) as cam:
        sample_id = await cam.publish(payload(1))
        await cam.flush()
        assert cam.backlog.refused == 1
    assert [(line["sample_id"], line["reason"]) for line in log_lines("buffer.refused")] == [
        (sample_id, "unknown_label")
    ]
    async with mqtt.edge(), mqtt.device() as cam:
        with pytest.raises(RejectedRecord, match="unknown_label"):
            await cam.publish(payload(2))


async def test_over_mqtt_what_the_broker_refuses_is_told_to_who_waits_and_kept_in_a_buffer(mqtt, tmp_path):
    mqtt.broker.forbidden.add("greenhouse/iot/cam")
    async with mqtt.edge():
        async with mqtt.device() as cam:
            with pytest.raises(MqttRefused):
                await cam.publish(payload(1))
        async with mqtt.device(buffer=tmp_path) as cam:
            await cam.publish(payload(2))
            await asyncio.sleep(5)
            assert "refuses" in cam.trouble
            mqtt.broker.forbidden.clear()
            async with asyncio.timeout(60):
                await cam.flush()
    assert [each for _, each, _ in mqtt.arrived] == [payload(2)]


async def test_over_mqtt_what_the_broker_never_takes_is_given_up_for_those_behind_it_alone(tmp_path, log_lines):
    bed = MqttBed("3.1.1")
    async with bed.edge(), bed.device(labels=["a/b"], buffer=tmp_path) as cam:
        never = await cam.publish(payload(0), "a/b")
        await cam.publish_many([(payload(number), None) for number in range(1, 50)])
        await asyncio.sleep(600)
        assert (cam.backlog.samples, cam.backlog.refused) == (50, 0)
        await cam.publish_many([(payload(number), None) for number in range(50, 200)])
        await cam.flush()
        assert (cam.backlog.samples, cam.backlog.refused) == (0, 1)
        assert cam.trouble == ""
    assert [each for _, each, _ in bed.arrived] == [payload(number) for number in range(1, 200)]
    assert [line["sample_id"] for line in log_lines("buffer.refused")] == [never]


async def test_over_kafka_what_the_topic_never_takes_is_refused_with_its_reason_and_holds_up_none(tmp_path, log_lines):
    """What it takes may have changed while the sample was in the buffer."""
    bed = KafkaBed()
    async with bed.device(codec="jpeg", buffer=tmp_path) as cam:
        bed.go_away(True)
        for number in range(100):
            await cam.publish(jpeg(3000 if number in {0, 70, 71} else 100))
        bed.log.set(TOPIC, "max.message.bytes", "2000")
        bed.go_away(False)
        await cam.flush()
        assert (cam.backlog.samples, cam.backlog.refused) == (0, 3)
    assert [len(each) for _, each, _ in bed.arrived] == [100] * 97
    (line,) = log_lines("buffer.refused")
    assert f"is too large for topic {TOPIC}" in line["reason"]


async def test_over_mqtt_what_is_too_large_for_any_packet_is_refused_before_it_is_buffered(tmp_path):
    broker = MemoryMqttBroker(RecordingHealth())
    address = Mqtt("localhost:1", packet_bytes=1000)
    async with made(address, broker=broker, codec="jpeg", buffer=tmp_path) as cam:
        with pytest.raises(RejectedRecord, match="too_large"):
            await cam.publish(jpeg(1001))
        assert await cam.publish(jpeg(500))
        assert cam.backlog.samples == 1


async def test_over_mqtt_predictions_that_nobody_takes_are_bounded_and_keep_no_receipt_back(
    mqtt, log_lines, monkeypatch
):
    monkeypatch.setattr("edged.device.inbox._MAX_KEPT", 3)
    async with mqtt.edge(), mqtt.device() as cam:
        ids = await cam.publish_many([(payload(number), None) for number in range(5)])
        for each in ids:
            mqtt.fake_edge.predict(each)
        await cam.publish(payload(9))
        assert [(await anext(cam.predictions())).id for _ in range(3)] == ids[2:]
    assert log_lines("sensor.predictions_dropped")[0]["total"] == 1


@pytest.mark.parametrize("content", [b"", b"\xff", b"\n\n", b"nobody:1 reason\n:", b"x" * 100_000, b"17 \n17"])
async def test_over_mqtt_no_receipt_harms_that_is_none(mqtt, content):
    async with mqtt.edge(), mqtt.device() as cam:
        mqtt.broker.publish("greenhouse/receipts/cam", content)
        mqtt.broker.publish("greenhouse/predictions/cam", content)
        await cam.publish(payload(1))


async def test_over_mqtt_kept_receipts_and_predictions_count_for_nothing(mqtt):
    async with mqtt.edge(), mqtt.device() as cam:
        mqtt.fake_edge.answers = False
        publishing = asyncio.ensure_future(cam.publish(payload(1)))
        await asyncio.sleep(1)
        mqtt.broker.publish("greenhouse/receipts/cam", mqtt.fake_edge.ids[0].encode(), is_retained=True)
        await asyncio.sleep(1)
        assert not publishing.done()
        mqtt.fake_edge.receipt(mqtt.fake_edge.ids[0])
        await publishing
