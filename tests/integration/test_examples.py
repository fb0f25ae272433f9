"""The devices of config/examples are run: the ESP32's program under CPython, the scripts as they stand."""

import asyncio
import importlib.util
import os
import shutil
import struct
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.domain.samples import returned
from edged.domain.topology import Kafka
from edged.ports import Record, TopicPartition, TopicSpec
from tests.support import umqtt_simple
from tests.support.bridged import SITE, bridged
from tests.support.mosquitto import Mosquitto, need_mosquitto
from tests.support.requirements import require

EXAMPLES = Path(__file__).parents[2] / "config" / "examples"


@pytest.fixture
def esp32(monkeypatch):
    """The module as MicroPython would load it."""
    package = types.ModuleType("umqtt")
    monkeypatch.setitem(sys.modules, "umqtt", package)
    monkeypatch.setitem(sys.modules, "umqtt.simple", umqtt_simple)
    monkeypatch.setattr(time, "ticks_ms", lambda: time.monotonic_ns() // 1_000_000, raising=False)
    monkeypatch.setattr(time, "ticks_diff", lambda later, earlier: later - earlier, raising=False)
    spec = importlib.util.spec_from_file_location("esp32", EXAMPLES / "esp32.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RETRY_MS", 0)
    return module


def publisher_of(esp32, mosquitto):
    return esp32.Publisher(umqtt_simple.MQTTClient("esp32", "127.0.0.1", mosquitto.port, keepalive=30), SITE, "esp32-1")


async def test_what_an_esp32_sends_arrives_once_also_when_the_broker_is_killed_and_forgets(esp32):
    need_mosquitto()
    with Mosquitto() as mosquitto:
        async with bridged(mosquitto.mqtt(), "esp32-1", shape=(16,), receipts=True) as log, asyncio.timeout(120):
            publisher = publisher_of(esp32, mosquitto)
            ids = []
            for number in range(30):
                ids.append(publisher.publish(esp32.reading()))
                await asyncio.to_thread(publisher.step)
                if number == 15:
                    mosquitto.kill()
                    mosquitto.forget()
                    await asyncio.to_thread(publisher.step)
                    await asyncio.to_thread(mosquitto.start)
            while publisher.kept:
                await asyncio.to_thread(publisher.step)
            records = log.records(f"{SITE}.iot.esp32-1")
    assert sorted(returned.sample_id(each.headers) for each in records) == sorted(ids)
    assert {(each.key, each.value) for each in records} == {(None, esp32.reading())}
    assert (publisher.num_lost, publisher.refused) == (0, [])


class Broken:
    """A client whose connections break once, with this error."""

    def __init__(self, error, where):
        self.sock: Any = None
        self.pid = 0
        self.sent, self.open = [], []
        self._error, self._where = error, where

    def set_callback(self, callback):
        self._callback = callback

    def connect(self, **_options):
        self.sock = umqtt_simple.Socket(self.open.remove)
        self.open.append(self.sock)
        self._at("connect")

    def subscribe(self, *_):
        self._at("subscribe")

    def check_msg(self):
        self._at("check_msg")

    def publish(self, topic, payload, qos):
        self._at("publish")
        self.pid += 1
        assert self.pid <= 0xFFFF
        self.sent.append(payload)

    def _at(self, where):
        if where == self._where:
            self._where = ""
            raise self._error


@pytest.mark.parametrize("where", ["connect", "subscribe", "check_msg", "publish"])
@pytest.mark.parametrize("kind", [OSError, umqtt_simple.MQTTException, IndexError, TypeError, AssertionError])
def test_whatever_umqtt_says_of_a_broken_connection_an_esp32_makes_another_one(esp32, kind, where):
    """micropython-lib#1056 and #430: an end in the middle of an answer is an IndexError there."""
    client = Broken(kind(), where)
    publisher = esp32.Publisher(client, SITE, "esp32-1")
    publisher.publish(b"x")
    publisher.step()
    publisher.step()
    assert client.sent == [b"x"]
    assert len(client.open) == 1


def test_an_esp32_that_is_refused_does_not_keep_the_broker_busy(esp32, monkeypatch):
    class Refused(Broken):
        def _at(self, where):
            raise OSError

    now_ms = 0
    monkeypatch.setattr(time, "ticks_ms", lambda: now_ms)
    monkeypatch.setattr(esp32, "RETRY_MS", 5000)
    client = Refused(OSError(), "connect")
    publisher = esp32.Publisher(client, SITE, "esp32-1")
    for now_ms in range(0, 10_000, 50):  # noqa: B007 - read by ticks_ms
        publisher.step()
    assert publisher._tried == 5000


def test_an_esp32_does_not_wait_for_ever_over_a_link_that_was_cut(esp32):
    """micropython-lib#103: umqtt.simple makes its socket a blocking one before each answer."""
    client = Broken(OSError(), "")
    esp32.Publisher(client, SITE, "esp32-1").step()
    made = client.open[0]
    client.sock.setblocking(False)
    client.sock.setblocking(True)
    assert made.timeouts_s == [esp32.ANSWER_S, 0, esp32.ANSWER_S]


def test_an_esp32_numbers_its_packets_anew_after_the_last_number_there_is(esp32):
    client = Broken(OSError(), "")
    publisher = esp32.Publisher(client, SITE, "esp32-1")
    client.pid = 0xFFFE
    for _ in range(3):
        publisher.publish(b"x")
        publisher.step()
    assert len(client.sent) == 3


def test_without_a_network_an_esp32_keeps_the_newest(esp32):
    class Away:
        sock = None

        def set_callback(self, callback):
            self.callback = callback

        def connect(self, **_options):
            raise OSError

    publisher = esp32.Publisher(Away(), SITE, "esp32-1")
    ids = [publisher.publish(b"x") for _ in range(esp32.MAX_KEPT + 3)]
    publisher.step()
    assert [each[0] for each in publisher.kept] == ids[3:]
    assert publisher.num_lost == 3


async def run(script, port, device, *arguments, **login):
    environment = os.environ | {"BROKER": "127.0.0.1", "PORT": str(port), "SITE": SITE, "DEVICE": device} | login
    program = [sys.executable] if script.endswith(".py") else []
    process = await asyncio.create_subprocess_exec(*program, EXAMPLES / script, *arguments, env=environment)
    assert await process.wait() == 0


async def test_a_shell_script_publishes_by_mqtt_and_gets_its_receipt(tmp_path):
    need_mosquitto()
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xffpixels")
    with Mosquitto(users={"cam": "open sesame"}) as mosquitto:
        async with asyncio.timeout(60), bridged(mosquitto.mqtt(), "cam", ids="text") as log:
            await run("mosquitto.sh", mosquitto.port, "cam", str(photo), "boot", PASSWORD="open sesame")  # noqa: S106
            (record,) = log.records(f"{SITE}.iot.cam")
    assert (record.key, record.value) == (b"boot", photo.read_bytes())
    assert returned.sample_id(record.headers)


async def test_a_pack_has_many_samples_each_with_its_number():
    need_mosquitto()
    with Mosquitto(users={"meter": "open sesame"}) as mosquitto:
        async with asyncio.timeout(60), bridged(mosquitto.mqtt(), "meter", shape=(16,)) as log:
            topic = f"{SITE}.iot.meter"
            await log.ensure([TopicSpec(topic)])
            await run("packs.py", mosquitto.port, "meter", PASSWORD="open sesame", STREAM="samples")  # noqa: S106
            records: list[Record] = []
            async with log.reader({TopicPartition(topic): 0}) as reader:
                while len(records) < 2:
                    records += await reader.poll(max_records=2, timeout_s=1)
    assert [struct.unpack("<4f", each.value)[0] for each in records] == [21.5, pytest.approx(21.6)]
    assert [returned.sample_id(each.headers).partition(":")[2] for each in records] == ["0", "1"]


async def test_a_shell_script_publishes_by_kafka(apache_kafka, tmp_path):
    if shutil.which("kcat") is None:
        require("no kcat on the PATH (Debian: kcat)")
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xffpixels")
    partition = TopicPartition(f"{SITE}.iot.cam-kcat")
    async with (
        asyncio.timeout(60),
        KafkaLog(Kafka((apache_kafka.bootstrap,)), RecordingHealth()) as log,
        log.reader({partition: 0}) as reader,
    ):
        await log.ensure([TopicSpec(partition.topic)])
        await run("kcat.sh", apache_kafka.bootstrap.rpartition(":")[2], "cam-kcat", str(photo), "boot")
        records: list[Record] = []
        while not records:
            records = await reader.poll(max_records=1, timeout_s=1)
    assert (records[0].key, records[0].value) == (b"boot", photo.read_bytes())
    assert returned.sample_id(records[0].headers)
    assert dict(records[0].headers)["edged-sampled-ms"].endswith(b"000")
