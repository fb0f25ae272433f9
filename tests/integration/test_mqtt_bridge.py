"""MQTT devices on real brokers: what the broker took is in Kafka, whatever is killed, and what has ids only once."""

import asyncio
import random
import re
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.mqtt import PahoBroker
from edged.domain.mqtt import topics
from edged.ports import Record
from tests.support.mosquitto import Mosquitto
from tests.support.mqtt_site import MqttSite, publishing
from tests.support.proxy import Proxy
from tests.support.site import at_work, eventually, following, own_name, running

WINDOW = 8
PAUSE_S = 0.02


def numbers_of(records: Sequence[Record]) -> Counter[int]:
    """How often each sample is there."""
    return Counter(int(dict(record.headers)["edged-sample-id"]) for record in records)


async def test_killed_cut_off_and_restarted_everything_acknowledged_is_in_kafka(
    apache_kafka, mosquitto: Mosquitto, tmp_path
) -> None:
    """Constant payloads: a double could not be told from the next sample."""
    rng = random.Random(0)  # noqa: S311 - picks moments, guards nothing
    name = own_name(tmp_path)
    with Proxy(mosquitto.port) as proxy:
        site = MqttSite(tmp_path, apache_kafka.bootstrap, site=name, port=proxy.port, window=WINDOW)
        async with (
            running(site) as running_site,
            publishing(mosquitto.mqtt(), name, ("cam-01", "cam-02"), PAUSE_S) as publishers,
        ):
            edge = await running_site.start("run", "pi-a")
            await at_work(edge, "bridged_records_per_s")
            num_kills = 3
            for _ in range(num_kills):
                await following(edge, "res.sample", rng.randint(1, 5))
                edge.signal(signal.SIGKILL)
                assert await edge.ended() == -signal.SIGKILL
                edge = await running_site.start("run", "pi-a")
                await at_work(edge, "bridged_records_per_s")
            proxy.cut()
            await following(edge, "mqtt.connected", 2)
            await asyncio.to_thread(mosquitto.stop)
            await asyncio.to_thread(mosquitto.start)
            await following(edge, "mqtt.connected", 2)
            await following(edge, "res.sample", 5)

            plain, numbered = publishers
            for each in publishers:
                each.stop()

            async def is_all_there() -> bool:
                there = [numbers_of(await site.records(device)).keys() for device in ("cam-01", "cam-02")]
                return set(plain.acknowledged) <= there[0] and set(numbered.acknowledged) <= there[1]

            await eventually(is_all_there, edge)
            records = await site.records("cam-01")
            numbers = numbers_of(records)
            doubles = sum(count - 1 for count in numbers.values())
            marked = sum("edged-double" in dict(record.headers) for record in records)
            assert doubles <= num_kills * WINDOW + plain.attempts - len(plain.acknowledged)
            assert doubles <= marked + plain.attempts - len(plain.acknowledged)

            assert max(numbers_of(await site.records("cam-02")).values()) == 1
            assert not any(line["event"] == "mqtt.session_lost" for child in site.children for line in child.lines)


async def test_the_pages_command_ends_the_session_of_a_device_that_has_left_the_site(mosquitto: Mosquitto) -> None:
    page = (Path(__file__).parents[2] / "systemd" / "README.md").read_text()
    (command,) = re.findall(r"^mosquitto_sub -i edged:.*$", page, re.MULTILINE)
    client = topics.bridge_client_id("greenhouse", "cam-01")
    filters = topics.of_device("greenhouse", "cam-01")
    async with PahoBroker(mosquitto.mqtt(), RecordingHealth()) as broker:
        async with broker.session(client, filters, part="device/cam-01") as session:
            await session.connected()
        mosquitto.publish("greenhouse/iot/cam-01", b"nobody wants it")
        ending = await asyncio.create_subprocess_exec(*command.split(), "-p", str(mosquitto.port))
        assert await ending.wait() == 0
        async with broker.session(client, filters, part="device/cam-01") as session:
            await session.connected()
            assert session.was_resumed is False
