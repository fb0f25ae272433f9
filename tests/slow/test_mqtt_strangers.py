"""An edge whose sessions others disturb: a cloned card, another Kafka's edge, one bad device among two hundred."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

from edged.domain.mqtt import topics
from edged.domain.samples import returned
from edged.ports import Record
from tests.support.brokers import Apache
from tests.support.mosquitto import Mosquitto
from tests.support.mqtt_site import MqttSite, publishing
from tests.support.site import at_work, eventually, following, own_name, running

A_SECOND: dict[str, Any] = {"timing": {"sample_s": 1.0}}
WINDOW = 8
BUSY = 75
NUM_DEVICES = 200
BAD, GOOD = "bad-000", [f"good-{number:03}" for number in range(1, NUM_DEVICES)]
WATCHED = GOOD[::20]
_FLOOD, _TOO_LARGE = 20_000, 70_000


def ids_of(records: list[Record]) -> list[int]:
    return [int(returned.sample_id(record.headers)) for record in records]


async def test_a_cloned_card_is_refused_before_it_takes_a_session(apache_kafka, mosquitto: Mosquitto, tmp_path) -> None:
    """Two edges with the same name on one Kafka, each with a state of its own."""
    name = own_name(tmp_path)
    site = MqttSite(tmp_path, apache_kafka.bootstrap, site=name, port=mosquitto.port, **A_SECOND)
    async with (
        running(site) as started,
        publishing(mosquitto.mqtt(), name, ("cam-01", "cam-02"), 0.05) as publishers,
    ):
        edge = await started.start("run", "pi-a")
        await at_work(edge, "bridged_records_per_s")
        site.more_environment = {f"XDG_{kind}_HOME": str(tmp_path / "clone" / kind) for kind in ("STATE", "CACHE")}
        clone = await started.start("run", "pi-a")
        assert await clone.ended() == BUSY
        assert not clone.seen("mqtt.connected")
        site.children.remove(clone)
        await following(edge, "res.sample", 3)
        for each in publishers:
            each.stop()

        async def is_all_there() -> bool:
            there = [ids_of(await site.records(device)) for device in ("cam-01", "cam-02")]
            return all(set(each.acknowledged) <= set(found) for each, found in zip(publishers, there, strict=True))

        await eventually(is_all_there, edge)
        for device in ("cam-01", "cam-02"):
            client = topics.bridge_client_id(name, device)
            assert len(edge.seen("mqtt.connected", client=client)) == 1, "nobody has taken the session from it"
        for device in ("cam-01", "cam-02"):
            ids = ids_of(await site.records(device))
            assert len(ids) == len(set(ids))


async def test_two_edges_of_two_kafkas_with_one_id_take_turns_are_told_and_lose_nothing(
    apache_kafka, mosquitto: Mosquitto, tmp_path
) -> None:
    """They cannot know of each other but by the sessions. For a minute."""
    name = own_name(tmp_path)
    with Apache() as other:
        sites = [
            MqttSite(tmp_path / kind, kafka.bootstrap, site=name, port=mosquitto.port, window=WINDOW, **A_SECOND)
            for kind, kafka in (("own", apache_kafka), ("clone", other))
        ]
        async with (
            running(sites[0]),
            running(sites[1]),
            publishing(mosquitto.mqtt(), name, ("cam-01", "cam-02"), 0.05) as publishers,
        ):
            edges = [await site.start("run", "pi-a") for site in sites]
            await following(edges[1], "res.sample", 60)
            for each in publishers:
                each.stop()
            found: dict[str, list[list[int]]] = {}

            async def is_all_there() -> bool:
                for device in ("cam-01", "cam-02"):
                    found[device] = [ids_of(await site.records(device)) for site in sites]
                return all(
                    set(each.acknowledged) <= set().union(*logs)
                    for each, logs in zip(publishers, found.values(), strict=True)
                )

            await eventually(is_all_there, edges[0])
            connected = sum(len(edge.seen("mqtt.connected")) for edge in edges)
            said = [line for edge in edges for line in edge.lines if "has another client the id" in str(line)]
            numbered = found["cam-02"]
            doubles = sum(map(len, numbered)) - len(set().union(*numbered))
            print(f"\n{connected} connections, told {len(said)} times, {doubles} doubles")  # noqa: T201
            assert said
            assert all(len(ids) == len(set(ids)) for ids in numbered), "of each Kafka's own"
            assert doubles <= connected * WINDOW
            assert connected < 60, "they throw each other out a few times a minute"


class CrowdSite(MqttSite):
    """One bad device and 199 good ones, each with ids."""

    def configure(self, **settings: Any) -> None:
        super().configure(**settings)
        lines = "".join(
            f"  - {{name: {name}, edge: pi-a, stream: fashion, codec: raw, transport: mqtt, id: counter}}\n"
            for name in (BAD, *GOOD)
        )
        text = re.sub(r"(?m)^  - \{name: cam-.*\n", "", self.topology.read_text())
        text = re.sub(r"memory_limit: \w+", "memory_limit: 1500MiB", text)
        self.topology.write_text(text.replace("iot:\n", f"iot:\n{lines}"))


@contextlib.contextmanager
def deaf(port: int, client: str, topic: str) -> Iterator[None]:
    """A client of MQTT 3.1.1 that subscribes with QoS 1, and never reads or acknowledges anything."""
    with socket.create_connection(("127.0.0.1", port)) as connected:
        name, topics_ = client.encode(), topic.encode()
        body = b"\x00\x04MQTT\x04\x00\x00\x00" + len(name).to_bytes(2, "big") + name
        connected.sendall(bytes([0x10, len(body)]) + body)
        body = b"\x00\x01" + len(topics_).to_bytes(2, "big") + topics_ + b"\x01"
        connected.sendall(bytes([0x82, len(body)]) + body)
        yield


@asynccontextmanager
async def disturbed(mosquitto: Mosquitto, site: str) -> AsyncIterator[None]:
    """Inside, the bad device floods by MQTT 3.1.1, sends packets above the limit, and acknowledges nothing."""
    topic = topics.samples_topic(site, BAD)
    with deaf(mosquitto.port, f"{BAD}-deaf", topics.predictions_topic(site, BAD)):
        async with asyncio.TaskGroup() as group:
            flood = [
                group.create_task(asyncio.to_thread(mosquitto.publish_lines, topic, b"x" * 784, _FLOOD))
                for _ in range(3)
            ]
            command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(mosquitto.port), "-q", "1", "-t", topic, "-s"]
            huge = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
            )
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(huge.communicate(bytes(_TOO_LARGE)), 10)
            yield
            await asyncio.gather(*flood)
            if huge.returncode is None:
                huge.kill()
            await huge.wait()


async def test_a_bad_device_among_two_hundred_harms_no_other(apache_kafka, mosquitto: Mosquitto, tmp_path) -> None:
    name = own_name(tmp_path)
    site = CrowdSite(tmp_path, apache_kafka.bootstrap, site=name, port=mosquitto.port, **A_SECOND)
    site.forks = False
    async with (
        running(site, excused={"ingest.rejected"}) as started,
        publishing(mosquitto.mqtt(), name, WATCHED, 0.2) as publishers,
    ):
        edge = await started.start("run", "pi-a")
        await edge.wait_for("mqtt.connected", NUM_DEVICES)
        await at_work(edge, "bridged_records_per_s")
        await following(edge, "res.sample", 10)
        before = [len(each.acknowledged) for each in publishers]
        async with disturbed(mosquitto, name):
            await following(edge, "res.sample", 20)
        during = [len(each.acknowledged) for each in publishers]
        for each in publishers:
            each.stop()

        async def is_all_there() -> bool:
            there = [set(ids_of(await site.records(device))) for device in WATCHED]
            return all(set(each.acknowledged) <= found for each, found in zip(publishers, there, strict=True))

        await eventually(is_all_there, edge)
        for device in WATCHED:
            ids = ids_of(await site.records(device))
            assert len(ids) == len(set(ids))
        assert all(more > some for some, more in zip(before, during, strict=True)), "each went on meanwhile"
        rss = max(line["rss_bytes"] for line in edge.seen("res.sample")) / 2**20
        print(f"\n{median(before)} before, {median(during)} by then; {rss:.0f} MiB; {len(edge.lines)} lines")  # noqa: T201
