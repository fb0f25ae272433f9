"""Devices' packets become records, each acknowledged once Kafka holds it; doubles, gaps and receipts; Kafka away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.adapters.memory.mqtt import MemoryMqttBroker, MemoryMqttSession
from edged.domain.mqtt import topics
from edged.domain.samples import pack as packs
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample
from edged.domain.topology import Device, Edge, Kafka, Mqtt, Stream, Topology
from edged.ports import Message, PacketProperties
from edged.services.ingest.dead_letters import DeadLetters
from edged.services.mqtt.bridge import PATIENCE_S, DeviceBridge
from edged.services.mqtt.bridge_report import BridgeReport
from edged.services.mqtt.receipts import MAX_WAITING, Receipts
from tests.support.fake_time import until

pytestmark = pytest.mark.looptime

TOPIC, DEAD, CLIENT = "site.iot.cam", "site.deadletters.pi", "edged:site:bridge:cam"
WINDOW = 4


@dataclass
class World:
    """A broker, a log, and the bridge of one device between them."""

    id: str = "none"
    receipts: bool = False
    log: MemoryLog = field(default_factory=MemoryLog)
    health: RecordingHealth = field(default_factory=RecordingHealth)

    def __post_init__(self) -> None:
        self.broker = MemoryMqttBroker(self.health, window=WINDOW)
        self.device = Device("cam", "pi", "images", transport="mqtt", id=self.id, receipts=self.receipts)  # type: ignore[arg-type]
        self.topology = Topology(
            site="site",
            kafka=Kafka(("kafka:9092",)),
            streams=(Stream("images", (1,), "uint8", ("rose", "lily")),),
            iot=(self.device,),
            edges=(Edge("pi"),),
            archive=(),
            mqtt=Mqtt("broker", window=WINDOW),
        )
        self.report = BridgeReport()

    @contextlib.asynccontextmanager
    async def bridge(self) -> AsyncIterator[MemoryMqttSession]:
        """A process with the bridge, killed at the end."""
        letters = DeadLetters(self.log, DEAD)
        filters = topics.of_device("site", "cam")
        async with self.broker.session(CLIENT, filters, part="device/cam") as session:
            bridge = DeviceBridge(
                self.log, self.topology, self.device, session, dead_letters=letters, report=self.report
            )
            running = [asyncio.create_task(each) for each in (bridge.run(), bridge.receipts.run())]
            try:
                yield session
            finally:
                for each in running:
                    each.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await each

    def publish(self, payload: bytes, topic: str = "site/iot/cam", **user: str) -> None:
        self.broker.publish(topic, payload, PacketProperties(tuple(user.items())))

    async def until_written(self, count: int) -> None:
        await until(lambda: len(self.log.records(TOPIC)) >= count and not self.broker.num_unacknowledged(CLIENT))
        await asyncio.sleep(2.0)

    def values(self) -> list[bytes]:
        return [record.value for record in self.log.records(TOPIC)]

    def letters(self) -> list[tuple[str, bytes]]:
        return [(dict(each.headers)["reason"].decode(), each.value) for each in self.log.records(DEAD)]


async def test_a_packet_becomes_a_record_like_any_other():
    world = World()
    async with world.bridge():
        world.publish(b"1")
        world.publish(b"2", "site/iot/cam/rose")
        world.publish(b"3", "site/iot/cam", label="lily/white", sampled_ms="12", id="a")
        await world.until_written(3)
    records = world.log.records(TOPIC)
    assert [(record.key, record.value) for record in records] == [(None, b"1"), (b"rose", b"2"), (b"lily/white", b"3")]
    assert {("edged-sampled-ms", b"12"), ("edged-sample-id", b"a")} < set(records[2].headers)
    assert world.report.num_records == 3


@pytest.mark.parametrize(("ids", "told"), [("counter", [1]), ("text", [1]), ("none", [])])
async def test_a_sample_without_the_id_that_its_device_declares_is_taken_and_told(log_lines, ids, told):
    """Whoever has forgotten it believes that each is kept once, and waits for receipts."""
    world = World(id=ids, receipts=ids != "none")
    async with world.bridge():
        world.publish(b"1", "site/iot/cam/rose")
        world.publish(b"2", "site/iot/cam/rose/7")
        await world.until_written(2)
    assert [line["samples"] for line in log_lines("mqtt.id_missing")] == told


async def test_nothing_is_acknowledged_before_kafka_has_it():
    world = World()
    world.log.unavailable = True
    async with world.bridge():
        for i in range(WINDOW):
            world.publish(b"%d" % i)
        await asyncio.sleep(PATIENCE_S / 2)
        assert world.broker.num_unacknowledged(CLIENT) == WINDOW
        world.log.unavailable = False
        await world.until_written(WINDOW)
    assert world.values() == [b"0", b"1", b"2", b"3"]


async def test_while_kafka_is_away_the_connection_is_closed_and_each_packet_written_once(log_lines):
    world = World()
    async with world.bridge() as session:
        world.publish(b"0")
        await world.until_written(1)
        world.log.unavailable = True
        for i in range(1, 10):
            world.publish(b"%d" % i)
        await asyncio.sleep(PATIENCE_S + 1)
        assert session.is_paused
        assert [line["device"] for line in log_lines("mqtt.paused")] == ["cam"]
        await asyncio.sleep(300)
        world.log.unavailable = False
        await world.until_written(10)
        assert not session.is_paused
    assert world.values() == [b"%d" % i for i in range(10)]
    assert world.report.bridged.doubles == 0


async def test_a_connection_that_breaks_while_kafka_is_slow_makes_no_doubles():
    world = World()
    async with world.bridge():
        world.log.unavailable = True
        for _ in range(2 * WINDOW):
            world.publish(b"the same")
        await asyncio.sleep(1)
        world.broker.cut()
        await asyncio.sleep(1)
        world.log.unavailable = False
        await world.until_written(2 * WINDOW)
    assert len(world.values()) == 2 * WINDOW


@pytest.mark.parametrize("others", [0, 1])
async def test_acknowledgements_that_are_lost_on_their_way_make_no_doubles_of_constant_payloads(others):
    """Nor where another program writes to the device's topic."""
    world = World()
    async with world.bridge():
        world.broker.takes_acknowledgements = False
        for _ in range(2 * WINDOW):
            world.publish(b"the same")
        await until(lambda: len(world.values()) == WINDOW)
        await asyncio.sleep(1)
        await world.log.append([Message(TOPIC, b"another's")] * others)
        world.broker.takes_acknowledgements = True
        world.broker.cut()
        await world.until_written(2 * WINDOW + others)
    assert len(world.values()) == 2 * WINDOW + others


async def test_killed_before_the_acknowledgement_a_window_is_doubled_at_most_marked_and_counted(log_lines):
    world = World()
    async with world.bridge():
        world.broker.takes_acknowledgements = False
        for _ in range(2 * WINDOW):
            world.publish(b"the same")
        await until(lambda: len(world.values()) == WINDOW)
        await asyncio.sleep(1)
    world.broker.takes_acknowledgements = True
    async with world.bridge():
        await world.until_written(3 * WINDOW)
    marked = [dict(record.headers).get("edged-double") for record in world.log.records(TOPIC)]
    assert marked == [None] * WINDOW + [b"1"] * WINDOW + [None] * WINDOW
    assert world.report.bridged.doubles == WINDOW
    assert [line["device"] for line in log_lines("mqtt.doubles")] == ["cam"]


@pytest.mark.parametrize("kind", ["counter", "text"])
async def test_with_ids_a_kill_doubles_nothing(kind):
    world = World(id=kind)
    async with world.bridge():
        world.broker.takes_acknowledgements = False
        for i in range(2 * WINDOW):
            world.publish(b"the same", id=str(i))
        await until(lambda: len(world.values()) == WINDOW)
        await asyncio.sleep(1)
    world.broker.takes_acknowledgements = True
    async with world.bridge():
        await world.until_written(2 * WINDOW)
    assert len(world.values()) == 2 * WINDOW
    ids = [dict(record.headers)["edged-sample-id"] for record in world.log.records(TOPIC)]
    assert ids == [b"%d" % i for i in range(2 * WINDOW)]
    assert world.report.bridged.duplicates == WINDOW
    assert world.report.bridged.doubles == 0


@pytest.mark.parametrize("kind", ["none", "counter", "text"])
async def test_two_edges_that_take_a_session_from_each_other_double_no_id_and_mark_what_they_double(kind):
    """A cloned card, or a device that has moved while its former edge goes on."""
    world = World(id=kind)
    async with world.bridge() as first:
        world.publish(b"the same", id="0")
        await world.until_written(1)
        async with world.bridge():
            world.broker.takes_acknowledgements = False
            for i in range(1, WINDOW + 1):
                world.publish(b"the same", id=str(i))
            await until(lambda: len(world.values()) == WINDOW + 1)
            await asyncio.sleep(1)
            world.broker.takes_acknowledgements = True
            first.connect()
            world.publish(b"the same", id=str(WINDOW + 1))
            await until(lambda: not world.broker.num_unacknowledged(CLIENT))
            await asyncio.sleep(2)
    ids = [dict(record.headers)["edged-sample-id"].decode() for record in world.log.records(TOPIC)]
    marked = [
        id_ for id_, record in zip(ids, world.log.records(TOPIC), strict=True) if "edged-double" in dict(record.headers)
    ]
    twice = [str(i) for i in range(1, WINDOW + 1)] if kind == "none" else []
    assert ids == [*(str(i) for i in range(WINDOW + 1)), *twice, str(WINDOW + 1)]
    assert marked == twice


async def test_a_counter_tells_what_never_came_and_when_it_begins_anew(log_lines):
    world = World(id="counter")
    async with world.bridge():
        for number in (5000, 5001, 5004, 5003, 7):
            world.publish(b"x", id=str(number))
        await world.until_written(5)
    assert world.report.bridged.missing == 1
    (gap,) = log_lines("mqtt.gap")
    assert (gap["id"], gap["missing"]) == ("5004", 2)
    assert [line["id"] for line in log_lines("mqtt.counter_restarted")] == ["7"]


async def test_a_receipt_is_sent_behind_kafka_and_again_for_what_comes_again():
    world = World(id="counter", receipts=True)
    async with (
        world.bridge(),
        world.broker.session("cam", [topics.receipts_topic("site", "cam")], part="cam") as cam,
    ):
        world.log.unavailable = True
        world.publish(b"x", id="1")
        assert await cam.receive(max_packets=9, timeout_s=5.0) == []
        world.log.unavailable = False
        (receipt,) = await cam.receive(max_packets=9, timeout_s=60.0)
        assert receipt.payload == b"1"
        world.publish(b"x", id="1")
        (receipt,) = await cam.receive(max_packets=9, timeout_s=60.0)
        assert receipt.payload == b"1"
        world.publish(b"x", id="no counter")
        (receipt,) = await cam.receive(max_packets=9, timeout_s=60.0)
        assert receipt.payload == b"no counter\twrong_id"
    assert len(world.values()) == 1


async def test_of_a_packet_that_is_refused_for_its_size_the_device_hears_by_the_id_in_its_topic():
    world = World(id="counter", receipts=True)
    async with (
        world.bridge(),
        world.broker.session("cam", [topics.receipts_topic("site", "cam")], part="cam") as cam,
    ):
        world.broker.publish("site/iot/cam//7", b"x", problem="the packet is too large")
        (receipt,) = await cam.receive(max_packets=9, timeout_s=60.0)
        assert receipt.payload == b"7\twrong_property"


async def test_who_asks_again_for_a_sample_that_was_refused_hears_so_again():
    world = World(id="counter", receipts=True)
    world.log.set(TOPIC, "max.message.bytes", "1000")
    async with (
        world.bridge(),
        world.broker.session("cam", [topics.receipts_topic("site", "cam")], part="cam") as cam,
    ):
        for _ in range(2):
            world.publish(bytes(2000), id="1")
            (receipt,) = await cam.receive(max_packets=9, timeout_s=60.0)
            assert receipt.payload == b"1\ttoo_large"


@pytest.mark.parametrize(
    ("stream", "numbers", "told"),
    [
        ("images", (1, 10**18), ["1\twrong_id", f"{10**18}\twrong_id"]),
        ("another", (1, 2), ["1\twrong_pack", "2\twrong_pack"]),
    ],
)
async def test_of_a_pack_that_is_refused_the_device_hears_for_each_of_its_samples(stream, numbers, told):
    world = World(id="counter", receipts=True)
    async with (
        world.bridge(),
        world.broker.session("cam", [topics.receipts_topic("site", "cam")], part="cam") as cam,
    ):
        world.publish(b"no pack", "site/packs/cam")
        world.publish(packs.encode(Pack(stream, tuple(map(sample, numbers)))), "site/packs/cam")
        (receipt,) = await cam.receive(max_packets=9, timeout_s=60.0)
    assert receipt.payload.decode().split("\n") == told


async def test_who_asks_for_a_receipt_without_an_id_by_which_it_could_be_told_is_taken_and_told_of(log_lines):
    world = World()
    async with world.bridge():
        world.publish(b"x", receipt="1")
        world.publish(b"y")
        await world.until_written(2)
    assert [line["samples"] for line in log_lines("mqtt.id_missing")] == [1]


async def test_what_a_refused_pack_had_is_taken_when_it_comes_alone():
    world = World(id="counter")
    async with world.bridge():
        world.publish(packs.encode(Pack("images", (sample(1), sample(10**18)))), "site/packs/cam")
        world.publish(b"1", id="1")
        await world.until_written(1)
    assert [reason for reason, _value in world.letters()] == ["wrong_id"]
    assert world.report.bridged.duplicates == 0


@pytest.mark.parametrize("sample_id", ["1\n2", "x" * 300])
async def test_what_is_no_id_of_any_device_is_refused_and_gets_no_receipt(sample_id):
    world = World(id="text", receipts=True)
    async with (
        world.bridge(),
        world.broker.session("cam", [topics.receipts_topic("site", "cam")], part="cam") as cam,
    ):
        world.publish(b"x", id=sample_id)
        world.publish(b"x", id="1")
        (receipt,) = await cam.receive(max_packets=9, timeout_s=60.0)
        assert receipt.payload == b"1"


async def test_a_receipt_that_nobody_gets_is_told_and_holds_nothing_up(log_lines):
    world = World(id="counter", receipts=True)
    async with world.bridge():
        world.publish(b"x", id="1")
        await world.until_written(1)
    (line,) = log_lines("mqtt.receipt_undelivered")
    assert (line["receipts"], line["reason"]) == (1, "nobody subscribes to them")


async def test_while_the_broker_says_nothing_of_a_receipt_the_bridge_reads_on(monkeypatch):
    """Its acknowledgement comes after packets that it has sent, which nobody else reads: vectordotdev/vector#25785."""
    world = World(receipts=True)
    async with world.bridge() as session:
        monkeypatch.setattr(session, "publish", lambda *_: asyncio.Event().wait())
        for i in range(3 * WINDOW):
            world.publish(b"%d" % i, id=str(i))
            await asyncio.sleep(0.1)
        assert len(world.values()) == 3 * WINDOW


async def test_receipts_wait_while_the_bridge_has_no_connection():
    world = World(id="counter", receipts=True)
    async with (
        world.bridge() as session,
        world.broker.session("cam", [topics.receipts_topic("site", "cam")], part="cam") as cam,
    ):
        await asyncio.sleep(1)
        world.log.unavailable = True
        world.publish(b"x", id="1")
        await asyncio.sleep(PATIENCE_S + 1)
        assert session.is_paused
        world.broker.away = True
        world.log.unavailable = False
        await asyncio.sleep(60)
        assert world.values() == [b"x"]
        world.broker.away = False
        (receipt,) = await cam.receive(max_packets=9, timeout_s=60.0)
        assert receipt.payload.splitlines()[0] == b"1"


async def test_of_receipts_that_wait_only_so_many_are_kept_the_newest(log_lines):
    world = World()
    world.broker.away = True
    async with world.broker.session(CLIENT, part="device/cam") as session:
        receipts = Receipts(session, "receipts", "cam", world.report)
        receipts.add(str(i) for i in range(MAX_WAITING + 3))
        (line,) = log_lines("mqtt.receipt_undelivered")
        assert line["receipts"] == 3
        world.broker.away = False
        async with world.broker.session("cam", ["receipts"], part="cam") as cam:
            running = asyncio.create_task(receipts.run())
            lines: list[str] = []
            while packets := await cam.receive(max_packets=9, timeout_s=5.0):
                cam.acknowledge(packets)
                lines += [line for packet in packets for line in packet.payload.decode().splitlines()]
            assert lines == [str(i) for i in range(3, MAX_WAITING + 3)]
            running.cancel()


async def test_who_asks_for_one_receipt_gets_it():
    world = World(id="text")
    async with (
        world.bridge(),
        world.broker.session("cam", [topics.receipts_topic("site", "cam")], part="cam") as cam,
    ):
        world.publish(b"x", id="a", receipt="")
        world.publish(b"x", id="b")
        (receipt,) = await cam.receive(max_packets=9, timeout_s=60.0)
        assert receipt.payload == b"a"
        assert await cam.receive(max_packets=9, timeout_s=60.0) == []


async def test_what_cannot_be_a_record_is_dead_lettered_and_acknowledged():
    world = World()
    async with world.bridge():
        world.publish(b"a", "site/iot/cam/rose/1/2")
        world.publish(b"b", "site/iot/cam/rose", label="lily")
        world.publish(b"c", "site/packs/cam")
        world.broker.publish("site/iot/cam", b"d", problem="the packet is too large")
        world.publish(b"good")
        await world.until_written(1)
    assert world.values() == [b"good"]
    assert world.letters() == [
        ("wrong_topic", b"a"),
        ("wrong_property", b"b"),
        ("wrong_pack", b"c"),
        ("wrong_property", b"d"),
    ]


async def test_a_record_that_the_topic_does_not_take_is_dead_lettered_and_the_others_are_written():
    world = World()
    world.log.set(TOPIC, "max.message.bytes", "1000")
    async with world.bridge():
        for payload in (b"1", bytes(2000), b"2", bytes(2001), b"3"):
            world.publish(payload)
        await world.until_written(3)
    assert world.values() == [b"1", b"2", b"3"]
    assert [(reason, len(value)) for reason, value in world.letters()] == [("too_large", 2000), ("too_large", 2001)]


async def test_which_record_the_topic_does_not_take_is_told_by_all_of_it_not_by_its_payload():
    """A label and an id belong to a record's size as well."""
    world = World()
    world.log.set(TOPIC, "max.message.bytes", "1000")
    async with world.bridge():
        world.publish(bytes(990))
        world.publish(bytes(990), id="i" * 100)
        world.publish(bytes(990))
        await until(lambda: len(world.log.records(TOPIC)) + len(world.letters()) == 3)
    assert [dict(record.headers).get("edged-sample-id") for record in world.log.records(TOPIC)] == [None, None]
    assert [reason for reason, _value in world.letters()] == ["too_large"]


async def test_a_retained_packet_is_of_before_and_ignored():
    world = World()
    async with world.bridge():
        world.broker.publish("site/iot/cam", b"old", is_retained=True)
        world.publish(b"new")
        await world.until_written(1)
    assert world.values() == [b"new"]
    assert world.report.bridged.retained == 1


def sample(i, label=None, **options):
    return Sample("cam", 0, i, 0, label, "raw", b"%d" % i, **options)


async def test_a_pack_is_split_into_records_in_its_order():
    world = World(id="counter")
    blob = packs.encode(Pack("images", (sample(1, "rose", sampled_ms=5), sample(2), sample(3, incarnation="a1"))))
    async with world.bridge():
        world.publish(blob, "site/packs/cam")
        world.publish(blob, "site/packs/cam")
        await world.until_written(3)
    records = world.log.records(TOPIC)
    assert [(record.key, record.value) for record in records] == [(b"rose", b"1"), (None, b"2"), (None, b"3")]
    assert [dict(record.headers)["edged-sample-id"] for record in records] == [b"1", b"2", b"a1:3"]
    assert dict(records[0].headers)["edged-sampled-ms"] == b"5"
    assert world.report.bridged.packs == 2
    assert world.report.bridged.duplicates == 3


async def test_a_pack_of_another_device_or_stream_is_dead_lettered():
    world = World()
    async with world.bridge():
        world.publish(packs.encode(Pack("sounds", (sample(1),))), "site/packs/cam")
        world.publish(packs.encode(Pack("images", (Sample("other", 0, 1, 0, None, "raw", b"x"),))), "site/packs/cam")
        world.publish(b"good")
        await world.until_written(1)
    assert [reason for reason, _value in world.letters()] == ["wrong_pack", "wrong_pack"]


@pytest.mark.parametrize(
    "wrong",
    [
        Pack("\ud800", (sample(1),)),
        Pack("x" * 400_000, (sample(1),)),
        Pack("images", (Sample("x" * 400_000, 0, 1, 0, None, "raw", b"x"),)),
        Pack("images", (sample(1), sample(2, "x" * 400_000))),
    ],
    ids=["half a character", "a long stream", "a long device", "a long label"],
)
async def test_whatever_a_pack_has_in_its_names_stops_nobody(wrong):
    world = World(id="counter")
    world.log.max_record_bytes = 1 << 20
    async with world.bridge():
        world.publish(packs.encode(wrong), "site/packs/cam")
        world.publish(b"good", id="1")
        await world.until_written(1)
    assert world.values() == [b"good"]
    (letter,) = world.log.records(DEAD)
    assert dict(letter.headers)["reason"] == b"wrong_pack"
    assert sum(len(value) for _name, value in letter.headers) < 2000


async def test_a_session_that_was_lost_while_no_edge_ran_is_told_by_the_records_there(log_lines):
    world = World()
    await world.log.append([Message(TOPIC, b"of a run before")])
    async with world.bridge():
        await asyncio.sleep(5)
    assert [line["client"] for line in log_lines("mqtt.session_lost")] == [CLIENT]


async def test_the_first_run_of_all_loses_no_session(log_lines):
    world = World()
    async with world.bridge():
        await asyncio.sleep(5)
    async with world.bridge():
        await asyncio.sleep(5)
    assert not log_lines("mqtt.session_lost")


async def test_the_line_of_what_was_done(log_lines):
    world = World()
    async with world.bridge():
        world.publish(b"12")
        await world.until_written(1)
    world.report.write()
    world.report.write()
    (line,) = log_lines("mqtt.bridged")
    assert (line["records"], line["bytes"]) == (1, 2)
