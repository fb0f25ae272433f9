"""The way back on fakes: each device gets its own predictions once it takes them, and nobody waits for another."""

import asyncio
import contextlib
import json
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog, MemoryReader
from edged.adapters.memory.mqtt import MemoryMqttBroker
from edged.domain.mqtt.lag import to_note
from edged.domain.mqtt.outbox import MAX_RECORDS, WINDOW
from edged.domain.mqtt.topics import bridge_client_id, device_client_id, predictions_topic
from edged.domain.mqtt.way_back import LIFETIME_S
from edged.domain.topology import Device, Topology
from edged.ports import BrokerLimits, Message, Packet, TopicPartition
from edged.services.mqtt.catch_up import CatchUp
from edged.services.mqtt.deliverer import Deliverer
from edged.services.mqtt.outboxes import Outboxes
from edged.services.mqtt.report import DeliveryReport
from edged.services.mqtt.sender import ANSWER_TIMEOUT_S, Sender
from edged.settings import Timing
from tests.support.fake_time import until
from tests.support.greenhouse import topology

TOPIC, GROUP = TopicPartition("greenhouse.predictions.pi"), "greenhouse.deliver.pi"
BEGAN_MS = 1_700_000_000_000


def site(*devices: str) -> Topology:
    """These devices of the trained stream by MQTT, and one by Kafka."""
    by_mqtt = tuple(Device(name, "pi", "tiles", transport="mqtt") for name in devices)
    return replace(topology(), iot=(*by_mqtt, Device("kafka-cam", "pi", "tiles")))


class World:
    """Kafka, an MQTT broker, and the time of both; what the edge runs is started and killed."""

    def __init__(self, *devices: str, limits: BrokerLimits | None = None) -> None:
        self.began_s = asyncio.get_running_loop().time()
        self.log = MemoryLog(now_ms=self.now_ms)
        self.health = RecordingHealth()
        self.broker = MemoryMqttBroker(RecordingHealth(), limits=limits or BrokerLimits("5"))
        self.devices = devices
        self.site = site(*devices)
        self.outboxes = Outboxes()
        self.num_written = 0

    def now_ms(self) -> int:
        return BEGAN_MS + int((asyncio.get_running_loop().time() - self.began_s) * 1000)

    def num_queued(self, device: str) -> int:
        """Packets that the broker has for the device."""
        return self.broker.num_unacknowledged(device_client_id("greenhouse", device))

    async def predict(self, *devices: str, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """One prediction for each, numbered throughout."""
        for device in devices:
            value = json.dumps({"n": self.num_written}).encode()
            self.num_written += 1
            await self.log.append([Message(TOPIC.topic, value, key=device.encode(), headers=tuple(headers))])

    @contextlib.asynccontextmanager
    async def edge(self, *, is_killed: bool = True):
        """What the edge runs of it; at the end it is killed, so that Kafka hears nothing more of it, or stopped."""
        self.outboxes = Outboxes()
        report = DeliveryReport(10.0)
        common: dict[str, Any] = {"report": report, "now_ms": self.now_ms}
        job = self.site.jobs[0]
        deliverer = Deliverer(self.log, self.site, "pi", job, self.outboxes, timing=Timing(), **common)
        async with contextlib.AsyncExitStack() as stack:
            services: list[Any] = [deliverer, CatchUp(self.log, TOPIC, self.outboxes, **common)]
            for device in self.devices:
                client = bridge_client_id("greenhouse", device)
                session = await stack.enter_async_context(self.broker.session(client, part=f"device/{device}"))
                outbox = self.outboxes.of_device(device)
                services.append(Sender(outbox, session, "greenhouse", health=self.health, **common))
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(service.run()) for service in services]
                tasks.append(group.create_task(deliverer.commit()))
                yield
                self.log.unavailable = is_killed
                for task in tasks:
                    task.cancel()
        self.log.unavailable = False

    @contextlib.asynccontextmanager
    async def device(self, name):
        """A device that subscribes to its predictions; what it has got so far."""
        got: deque[Packet] = deque()
        client, topic = device_client_id("greenhouse", name), predictions_topic("greenhouse", name)
        async with self.broker.session(client, [f"{topic}/#"], part=name) as session:
            task = asyncio.get_running_loop().create_task(self._take(session, got))
            try:
                yield got
            finally:
                task.cancel()

    @staticmethod
    async def _take(session, got):
        while True:
            packets = await session.receive(max_packets=32, timeout_s=60.0)
            got.extend(packets)
            session.acknowledge(packets)


def numbers(got):
    return [json.loads(packet.payload)["n"] for packet in got]


def tries(world, monkeypatch):
    """The topics of all packets from now on, taken by anybody or not."""
    topics: list[str] = []
    publish = world.broker.publish

    def noted(topic, *rest):
        topics.append(topic)
        return publish(topic, *rest)

    monkeypatch.setattr(world.broker, "publish", noted)
    return topics


def num_expired(log_lines):
    return sum(line["predictions"] for line in log_lines("mqtt.prediction_expired"))


async def settled(world):
    """Wait until the place is committed at the end, with nobody behind."""
    end = len(world.log.records(TOPIC.topic))
    await until(lambda: committed(world) == (end, ""))


def committed(world):
    found = world.log.commits.get((GROUP, TOPIC))
    return (found.place.offset, found.note) if found else None


@pytest.mark.looptime
async def test_each_device_gets_its_own_predictions_in_order_and_no_others():
    world = World("cam", "cam-2")
    async with world.device("cam") as cam, world.device("cam-2") as cam_2, world.edge():
        await world.predict("cam", "cam-2", "kafka-cam", "nobody-we-know", "cam", "cam-2")
        await settled(world)
    assert (numbers(cam), numbers(cam_2)) == ([0, 4], [1, 5])
    assert {packet.topic for packet in cam} == {"greenhouse/predictions/cam"}
    assert cam[0].properties.expiry_s == LIFETIME_S


@pytest.mark.looptime
async def test_what_the_device_gave_comes_with_it_and_the_broker_keeps_it_for_what_is_left_of_the_hour():
    world = World("cam")
    given = [("edged-sample-id", b"a:7"), ("edged-correlation", b"\xff"), ("edged-response-topic", b"x")]
    below = [("edged-response-topic", b"greenhouse/predictions/cam/answers")]
    await world.predict("cam", headers=given)
    await world.predict("cam", headers=below)
    await asyncio.sleep(600)
    async with world.device("cam") as cam, world.edge():
        await settled(world)
    assert [packet.topic for packet in cam] == ["greenhouse/predictions/cam", "greenhouse/predictions/cam/answers"]
    assert cam[0].properties.user == (("id", "a:7"),)
    assert cam[0].properties.correlation == b"\xff"
    assert cam[0].properties.expiry_s == LIFETIME_S - 600


@pytest.mark.looptime
async def test_a_response_topic_of_others_is_told(log_lines):
    world = World("cam")
    async with world.device("cam"), world.edge():
        await world.predict("cam", headers=[("edged-response-topic", b"greenhouse/iot/cam")])
        await settled(world)
    (line,) = log_lines("mqtt.response_topic_ignored")
    assert (line["device"], line["topic"]) == ("cam", "greenhouse/iot/cam")


@pytest.mark.looptime
@pytest.mark.parametrize("count", [3, 10 * MAX_RECORDS])
async def test_a_device_that_is_away_holds_nobody_up_and_gets_all_in_order_once_it_is_there(count, log_lines):
    world = World("cam", "cam-2")
    async with world.device("cam") as cam, world.edge():
        await world.predict(*["cam", "cam-2"] * count)
        await until(lambda: len(cam) == count)
        await asyncio.sleep(600)
        async with world.device("cam-2") as cam_2:
            await settled(world)
    assert numbers(cam_2) == list(range(1, 2 * count, 2))
    assert numbers(cam) == list(range(0, 2 * count, 2))
    assert [line["device"] for line in log_lines("mqtt.no_receiver")] == ["cam-2"]
    assert [line["device"] for line in log_lines("mqtt.receiver_back")] == ["cam-2"]


@pytest.mark.looptime
async def test_a_device_that_sends_again_gets_its_predictions_within_seconds():
    world = World("cam")
    async with world.edge():
        await world.predict("cam")
        await asyncio.sleep(600.5)
        async with world.device("cam") as cam:
            began_s = asyncio.get_running_loop().time()
            await world.predict("cam")
            await settled(world)
            assert asyncio.get_running_loop().time() - began_s < 10
    assert numbers(cam) == [0, 1]


@pytest.mark.looptime
async def test_a_device_that_was_away_for_longer_gets_the_last_hours_predictions_each_once(log_lines):
    world = World("cam")
    async with world.edge():
        for _ in range(10):
            await world.predict("cam")
            await asyncio.sleep(600)
        async with world.device("cam") as cam:
            await world.predict("cam")
            await settled(world)
    assert sorted(numbers(cam)) == [5, 6, 7, 8, 9, 10]
    assert num_expired(log_lines) == 5


@pytest.mark.looptime
async def test_a_device_that_never_comes_costs_two_records_and_a_packet_now_and_then(monkeypatch):
    world = World("cam", "cam-2")
    tried = tries(world, monkeypatch)
    async with world.device("cam") as cam, world.edge():
        for _ in range(1000):
            await world.predict("cam", "cam-2")
            await asyncio.sleep(1)
        assert len(cam) == 1000
        assert tried.count("greenhouse/predictions/cam-2") == pytest.approx(200, abs=2)
        await asyncio.sleep(600)
        assert tried.count("greenhouse/predictions/cam-2") == pytest.approx(210, abs=3)
        assert len(world.outboxes.of_device("cam-2").state.waiting) == 1


@pytest.mark.looptime
async def test_a_restart_sends_nothing_again_and_forgets_nobody():
    world = World("cam", "cam-2")
    async with world.device("cam") as cam:
        async with world.edge():
            await world.predict(*["cam", "cam-2"] * 200)
            await until(lambda: len(cam) == 200)
            await asyncio.sleep(2)
        async with world.edge():
            await world.predict("cam", "cam-2")
            async with world.device("cam-2") as cam_2:
                await settled(world)
    assert numbers(cam) == list(range(0, 402, 2))
    assert numbers(cam_2) == list(range(1, 402, 2))


@pytest.mark.looptime
async def test_an_edge_that_is_killed_again_and_again_loses_none_and_repeats_a_seconds_at_most():
    world = World("cam")
    async with world.device("cam") as cam:
        for kill in range(20):
            async with world.edge():
                for _ in range(10):
                    await world.predict("cam")
                    await asyncio.sleep(0.07 + 0.01 * kill)
        async with world.edge():
            await settled(world)
    doubles = len(cam) - len(set(numbers(cam)))
    assert set(numbers(cam)) == set(range(200))
    assert doubles <= 20 * 15


@pytest.mark.looptime
async def test_an_edge_that_is_stopped_again_and_again_repeats_none():
    world = World("cam")
    async with world.device("cam") as cam:
        for stop in range(20):
            async with world.edge(is_killed=False):
                for _ in range(10):
                    await world.predict("cam")
                    await asyncio.sleep(0.07 + 0.01 * stop)
        async with world.edge():
            await settled(world)
    assert numbers(cam) == list(range(200))


@pytest.mark.looptime
@pytest.mark.parametrize("is_away", [True, False])
async def test_a_restart_before_anybody_can_receive_commits_nothing_of_the_backlog(is_away):
    """As emqx#19074: a backlog that is published and committed before the clients can connect, at every restart."""
    world = World("cam", "cam-2")
    await world.predict(*["cam", "cam-2"] * 100)
    world.broker.away = is_away
    for _ in range(3):
        async with world.edge():
            await asyncio.sleep(100)
        assert committed(world) is not None
    world.broker.away = False
    async with world.device("cam") as cam, world.device("cam-2") as cam_2, world.edge():
        await settled(world)
    assert (numbers(cam), numbers(cam_2)) == (list(range(0, 200, 2)), list(range(1, 200, 2)))


@pytest.mark.looptime
@pytest.mark.parametrize("is_known", [False, True])
async def test_what_became_too_old_while_no_edge_ran_is_skipped_and_counted(log_lines, is_known):
    world = World("cam")
    if is_known:
        async with world.edge():
            await world.predict("cam-of-another-run")
            await asyncio.sleep(5)
    value = json.dumps({"n": 0}).encode()
    await world.log.append([Message(TOPIC.topic, value, key=b"cam") for _ in range(5000)])
    await asyncio.sleep(2 * LIFETIME_S)
    await world.predict("cam")
    async with world.device("cam") as cam, world.edge():
        await settled(world)
        await asyncio.sleep(20)
    assert len(cam) == 1
    skipped = sum(line["skipped"] for line in log_lines("mqtt.delivered"))
    assert skipped + num_expired(log_lines) == 5000 if is_known else skipped == 0


@pytest.mark.looptime
async def test_a_broker_that_is_away_is_waited_for_and_what_is_too_old_then_is_not_sent(log_lines):
    world = World("cam")
    async with world.device("cam") as cam, world.edge():
        await world.predict("cam")
        await settled(world)
        world.broker.away = True
        await world.predict(*["cam"] * 5)
        await asyncio.sleep(LIFETIME_S)
        await world.predict(*["cam"] * 200)
        await asyncio.sleep(60)
        world.broker.away = False
        await settled(world)
    assert numbers(cam)[0] == 0
    assert sorted(numbers(cam)[1:]) == list(range(6, 206))
    assert num_expired(log_lines) == 5


@pytest.mark.looptime
async def test_while_kafka_is_away_nothing_is_lost_and_it_goes_on_by_itself():
    world = World("cam")
    async with world.device("cam") as cam, world.edge():
        await world.predict("cam")
        await settled(world)
        world.log.unavailable = True
        await asyncio.sleep(100)
        world.log.unavailable = False
        await world.predict("cam")
        await settled(world)
    assert numbers(cam) == [0, 1]


@pytest.mark.looptime
async def test_what_the_broker_refuses_is_told_and_sent_once_it_takes_it():
    world = World("cam", "cam-2")
    world.broker.forbidden.add("greenhouse/predictions/cam-2")
    async with world.device("cam") as cam, world.device("cam-2") as cam_2, world.edge():
        await world.predict("cam", "cam-2", "cam", "cam-2")
        await until(lambda: len(cam) == 2)
        await until(lambda: "predictions/cam-2" in world.health.reasons)
        world.broker.forbidden.clear()
        await settled(world)
    assert numbers(cam_2) == [1, 3]
    assert world.health.reasons == {}


@pytest.mark.looptime
@pytest.mark.parametrize("apart_s", [0, 100])
@pytest.mark.parametrize("is_too_large", [False, True])
async def test_one_that_the_broker_never_takes_is_told_and_holds_up_none_behind_it(apart_s, is_too_large, log_lines):
    topic = "greenhouse/predictions/cam/answers"
    world = World("cam", limits=BrokerLimits("5", packet_bytes=100))
    world.broker.forbidden.add(topic)
    async with world.device("cam") as cam, world.edge():
        for n in range(7):
            is_never = n in {0, 3, 4}
            value = json.dumps({"n": n, "long": "x" * 100 * (is_never and is_too_large)}).encode()
            headers = (("edged-response-topic", topic.encode()),) if is_never and not is_too_large else ()
            await world.log.append([Message(TOPIC.topic, value, key=b"cam", headers=headers)])
            await asyncio.sleep(apart_s)
        await settled(world)
        await asyncio.sleep(20)
    assert numbers(cam) == [1, 2, 5, 6]
    assert [line["device"] for line in log_lines("mqtt.prediction_refused")][:1] == ["cam"]
    assert sum(line["refused"] for line in log_lines("mqtt.delivered")) == 3
    assert not world.health.reasons


@pytest.mark.looptime
async def test_what_the_broker_takes_and_never_acknowledges_holds_up_those_behind_it_for_an_hour(log_lines):
    world = World("cam")
    world.broker.silent.add("greenhouse/predictions/cam")
    async with world.device("cam") as cam, world.edge():
        await world.predict("cam")
        await asyncio.sleep(LIFETIME_S - 100)
        await world.predict("cam")
        world.broker.silent.clear()
        await asyncio.sleep(300)
        await settled(world)
        await asyncio.sleep(20)
    assert numbers(cam) == [0, 1]
    assert num_expired(log_lines) == 1


@pytest.mark.looptime
async def test_none_waits_for_the_acknowledgement_of_those_before_and_the_place_does():
    world = World("cam")
    async with world.device("cam") as cam, world.edge():
        await world.predict("cam")
        await settled(world)
        world.broker.silent.add("greenhouse/predictions/cam")
        await world.predict(*["cam"] * 10)
        await until(lambda: len(cam) == 11)
        await asyncio.sleep(2)
        assert committed(world) == (11, to_note({"cam": 1}, 11))
        world.broker.speak()
        await settled(world)
    assert numbers(cam) == list(range(11))


@pytest.mark.looptime
async def test_a_device_whose_packets_the_broker_never_acknowledges_holds_up_no_other_and_gets_each_once():
    world = World("cam", "cam-2")
    await world.predict(*["cam", "cam-2"] * 10 * MAX_RECORDS)
    world.broker.silent.add("greenhouse/predictions/cam")
    async with world.device("cam") as cam, world.device("cam-2") as cam_2, world.edge():
        await until(lambda: len(cam_2) == 10 * MAX_RECORDS)
        await until(lambda: "predictions/cam" in world.health.reasons)
        await asyncio.sleep(600)
        assert len(cam) == 1
        world.broker.speak()
        await settled(world)
    assert numbers(cam) == list(range(0, 20 * MAX_RECORDS, 2))
    assert numbers(cam_2) == list(range(1, 20 * MAX_RECORDS, 2))
    assert not world.health.reasons


@pytest.mark.looptime
async def test_a_broker_that_acknowledges_one_now_and_then_is_not_silent():
    topics = [f"greenhouse/predictions/cam/{n}" for n in range(WINDOW + 1)]
    world = World("cam")
    async with world.device("cam") as cam, world.edge():
        await world.predict("cam", headers=[("edged-response-topic", topics[0].encode())])
        await settled(world)
        world.broker.silent.update(topics)
        for topic in topics[1:]:
            await world.predict("cam", headers=[("edged-response-topic", topic.encode())])
        for topic in topics[1:]:
            await asyncio.sleep(ANSWER_TIMEOUT_S - 1)
            world.broker.speak(topic)
        await settled(world)
    assert numbers(cam) == list(range(WINDOW + 1))
    assert not world.health.history


@pytest.mark.looptime
async def test_predictions_go_on_while_kafka_does_not_answer_a_commit(monkeypatch):
    async def unanswered(*_):
        await asyncio.Event().wait()

    world = World("cam")
    async with world.device("cam") as cam, world.edge():
        monkeypatch.setattr(MemoryReader, "commit", unanswered)
        for n in range(5):
            await world.predict("cam")
            await asyncio.sleep(1)
            assert len(cam) == n + 1


@pytest.mark.looptime
async def test_a_connection_that_breaks_repeats_a_window_at_most_in_order():
    world = World("cam")
    async with world.device("cam") as cam, world.edge():
        await world.predict("cam")
        await settled(world)
        world.broker.silent.add("greenhouse/predictions/cam")
        await world.predict(*["cam"] * 3 * WINDOW)
        await until(lambda: len(cam) == 1 + WINDOW)
        world.broker.silent.clear()
        world.broker.cut()
        await settled(world)
    assert numbers(cam) == [*range(1 + WINDOW), *range(1, 1 + 3 * WINDOW)]


@pytest.mark.looptime
async def test_a_first_start_sends_what_is_not_too_old_yet():
    world = World("cam")
    await world.predict(*["cam"] * 3000)
    await asyncio.sleep(LIFETIME_S)
    await world.predict(*["cam"] * 10)
    async with world.device("cam") as cam, world.edge():
        await settled(world)
    assert numbers(cam) == list(range(3000, 3010))


@pytest.mark.looptime
async def test_a_predictions_topic_that_becomes_another_log_is_read_from_its_beginning():
    world = World("cam", "cam-2")
    async with world.device("cam") as cam, world.edge():
        await world.predict(*["cam", "cam-2"] * 5)
        await until(lambda: len(cam) == 5)
        await asyncio.sleep(2)
        world.log.delete(TOPIC.topic)
        await world.predict("cam", "cam-2")
        async with world.device("cam-2") as cam_2:
            await settled(world)
    assert numbers(cam) == [0, 2, 4, 6, 8, 10]
    assert numbers(cam_2) == [11]


@pytest.mark.looptime
async def test_a_broker_of_3_1_1_does_not_tell_who_is_absent_and_that_is_said(log_lines):
    world = World("cam", limits=BrokerLimits("3.1.1"))
    async with world.edge():
        await world.predict("cam", "cam")
        await settled(world)
    assert len(log_lines("mqtt.receivers_unknown")) == 1


@pytest.mark.looptime
@pytest.mark.parametrize("seed", range(6))
async def test_whatever_fails_in_between_each_device_gets_all_of_the_last_hour(seed):
    """At random the edge is killed, the broker goes away or forgets its sessions, and devices come late."""
    chance = random.Random(seed)  # noqa: S311 - a test's
    names = ["a", "b", "c"]
    world, got, expected = World(*names), dict[str, deque[Packet]](), dict[str, list[int]]()
    async with contextlib.AsyncExitStack() as devices:
        for _ in range(12):
            async with world.edge():
                for _ in range(chance.randrange(1, 6)):
                    for n, name in enumerate(chance.choices(names, k=chance.randrange(1, 150)), world.num_written):
                        expected.setdefault(name, []).append(n)
                        await world.predict(name)
                    world.broker.away = chance.random() < 0.3
                    if chance.random() < 0.3 and not any(map(world.num_queued, names)):
                        world.broker.forget()  # what it had acknowledged and not delivered yet is its own loss
                    if chance.random() < 0.2 and (name := chance.choice(names)) not in got:
                        got[name] = await devices.enter_async_context(world.device(name))
                    await asyncio.sleep(chance.uniform(0, 30))
        world.broker.away = False
        for name in set(names) - got.keys():
            got[name] = await devices.enter_async_context(world.device(name))
        async with world.edge():
            await settled(world)
    assert {name: sorted(set(numbers(packets))) for name, packets in got.items()} == expected
