"""Twenty devices on MQTT and five on Kafka beside a trainer, while everything between them and the archive is killed.

What a client was told is held against what is in the archive, sample by sample. Seeded: the same moments each time, as
far as they are counted in a node's lines.
"""

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from edged.cli.demo.processes import Child, LogLine
from edged.domain.mqtt import topics
from edged.domain.mqtt.mosquitto import keeping
from edged.domain.samples import returned
from edged.domain.topology import Mqtt
from edged.ports import Record
from tests.support.brokers import Apache
from tests.support.fleet import FLEET, KEPT, MQTT_DEVICES, ONCE, WINDOW, FleetDevice, FleetSite, again, fleet, ids_of
from tests.support.mosquitto import DeafLine, Mosquitto, OldBroker, keeps_to_receive_maximum, need_mosquitto
from tests.support.site import at_work, eventually, following, own_name, running

SEED = 15
SETTINGS = {"epochs": 100_000, "timing": {"sample_s": 1.0}, "flush": "2s"}
"""A second a line: each node lives for long."""

AWAY_S = 60
BROKEN_S = 45
"""Longer than a link may be silent before either side gives it up."""


class World:
    """The site at work, its devices, and the processes that are killed."""

    def __init__(self, site: FleetSite, kafka: Apache, mosquitto: Mosquitto, line: DeafLine, old: Mqtt) -> None:
        self.site, self.kafka, self.mosquitto, self.line, self._old = site, kafka, mosquitto, line, old
        self.rng = random.Random(SEED)  # noqa: S311 - picks moments, guards nothing
        self.devices: Mapping[str, FleetDevice] = {}
        self.num_kills = 0
        """Of the edge; a stop waits for what is being written, but not for long."""
        self.vault: Child
        self.edge: Child

    @contextlib.asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """Inside, all devices publish. Left, none does, and what is in their buffers has arrived."""
        async with fleet(self.site, self.site.folder / "buffers", self.mosquitto.mqtt(), self._old) as self.devices:
            await at_work(self.edge, "bridged_records_per_s")
            yield
            await self.seconds(5)

    async def seconds(self, count: int) -> None:
        """As the archive node counts them, which nobody kills; not by their number, for old lines are forgotten."""
        since = self.vault.lines[-1]["ts"]
        await self.vault.until(
            lambda lines: sum(line["event"] == "res.sample" and line["ts"] > since for line in lines) >= count,
            f"{count} s went by",
        )

    async def start_edge(self) -> None:
        self.edge = await self.site.start("run", "pi-a")

    async def until_bridged(self, since: str = "") -> None:
        """The edge has connected the session of each device; `since`: its last line before that."""
        clients = {topics.bridge_client_id(self.site.loaded().site, name) for name in MQTT_DEVICES}

        def connected(lines: Iterable[LogLine]) -> bool:
            new = (line for line in lines if line["event"] == "mqtt.connected" and line["ts"] > since)
            return {line["client"] for line in new} >= clients

        await self.edge.until(connected, "it had all its devices")

    async def kill_edge(self) -> None:
        self.edge.signal(signal.SIGKILL)
        assert await self.edge.ended() == -signal.SIGKILL
        self.num_kills += 1
        await self.start_edge()

    async def kill_kafka(self, away_s: int = 3) -> None:
        await asyncio.to_thread(self.kafka.stop, signal.SIGKILL)
        await self.seconds(away_s)
        await asyncio.to_thread(self.kafka.start)

    async def kill_kafka_for_long(self) -> None:
        await self.kill_kafka(BROKEN_S)

    async def stop_edge_for_a_minute(self) -> None:
        assert await self.edge.stop() == 0
        self.num_kills += 1
        await self.seconds(AWAY_S)
        await self.start_edge()

    async def freeze_edge(self) -> None:
        self.edge.signal(signal.SIGSTOP)
        await self.seconds(BROKEN_S)
        self.edge.signal(signal.SIGCONT)

    async def break_link_in_a_resend(self) -> None:
        """What waits for Kafka is sent again at a new connection, which dies in the middle of that without a word."""
        await self.until_bridged()
        await at_work(self.edge, "bridged_records_per_s")
        await asyncio.to_thread(self.kafka.pause)
        await self.seconds(3)
        self.line.arm()
        self.line.cut()
        await self.seconds(1)
        self.kafka.resume()

        async def is_deaf() -> bool:
            return self.line.is_deaf

        await eventually(is_deaf, self.vault)
        await self.seconds(BROKEN_S)
        self.line.heal()
        await following(self.edge, "mqtt.connected")

    async def all_there(self, since: float = 0.0) -> None:
        """Wait until all is in Kafka that was acknowledged since then, in Unix time, and up to now."""
        wanted = {
            name: {sample_id for sample_id, at in device.acknowledged.items() if at > since}
            for name, device in self.devices.items()
        }
        lost: dict[str, set[str]] = {}

        async def is_there() -> bool:
            found = await self.site.records()
            lost.clear()
            lost.update({name: wanted[name] - set(ids_of(found[name])) for name in wanted})
            return not any(lost.values())

        try:
            await eventually(is_there, self.vault)
        except AssertionError:
            raise AssertionError(f"lost: { ({name: ids for name, ids in lost.items() if ids}) }") from None

    @property
    def last_acknowledged(self) -> float:
        """When the newest of all acknowledgements came."""
        return max(at for each in self.devices.values() for at in each.acknowledged.values())

    def unread_acknowledgements(self) -> Counter[str]:
        """By device, those of its edge that Mosquitto never read; none of one that keeps to what it may send ahead."""
        if keeps_to_receive_maximum():
            return Counter()
        passed, read = self.line.num_acks, self.mosquitto.num_acks()
        clients = {name: topics.bridge_client_id(self.site.loaded().site, name) for name in MQTT_DEVICES}
        return Counter({name: passed[client] - read[client] for name, client in clients.items()})

    async def assert_archived_once(self) -> Mapping[str, list[Record]]:
        """All that is in Kafka is in the archive, each record once."""
        found = await self.site.records()

        async def is_archived() -> bool:
            return self.site.num_archived() >= sum(map(len, found.values()))

        await eventually(is_archived, self.vault)
        archived = self.site.archived_places()
        places = {(name, record.offset) for name, records in found.items() for record in records}
        assert set(archived) == places
        assert set(archived.values()) == {1}
        await self.site.edged("archive", "verify", str(self.site.topology))
        return found


@contextlib.asynccontextmanager
async def at_large(kafka: Apache, folder: Path) -> AsyncIterator[World]:
    """A site that trains; see `World.publishing`."""
    need_mosquitto()
    printed = keeping(Mqtt("127.0.0.1", window=WINDOW))
    with Mosquitto(printed) as mosquitto, DeafLine(mosquitto.port) as line, OldBroker(mosquitto.port) as old:
        site = FleetSite(folder, kafka.bootstrap, site=own_name(folder), mqtt=f"127.0.0.1:{line.port}", **SETTINGS)
        async with running(site):
            world = World(site, kafka, mosquitto, line, Mqtt(f"127.0.0.1:{old.port}"))
            await site.import_fashion(3000, test_limit=100)  # epochs of some seconds, not of many lines
            world.vault = await site.start("run", "vault")
            await world.start_edge()
            await world.until_bridged()
            await at_work(world.edge, "trained_samples_per_s")
            yield world
            await following(world.edge, "train.epoch")


def assert_once(found: Mapping[str, list[Record]]) -> None:
    twice = {name: [i for i, count in ids_of(found[name]).items() if count > 1] for name in ONCE}
    assert not any(twice.values()), twice


async def test_edge_kafka_and_link_killed_at_random_lose_nothing_that_was_acknowledged(
    fresh_apache_kafka: Apache, tmp_path: Path
) -> None:
    """Of a device without ids each kill of the edge may double a window, all of it marked, each sample once.

    Of a Mosquitto that sends more than a window ahead a connection that broke before the kill may have had the
    acknowledgements of one window on their way, and another one behind it. What it has missed of the edge's
    acknowledgements, which are not in its log, comes again, too.
    """
    async with at_large(fresh_apache_kafka, tmp_path) as world:
        async with world.publishing():
            faults: list[Callable[[], Awaitable[None]]] = [
                *[world.kill_edge] * 5,
                *[world.kill_kafka] * 2,
                world.kill_kafka_for_long,
                world.stop_edge_for_a_minute,
                world.freeze_edge,
                world.break_link_in_a_resend,
            ]
            world.rng.shuffle(faults)
            for fault in faults:
                await world.seconds(world.rng.randint(1, 10))
                await fault()
        await world.all_there()
        found = await world.assert_archived_once()
        unread = world.unread_acknowledgements()
    assert_once(found)
    per_kill = WINDOW if keeps_to_receive_maximum() else 2 * WINDOW + 1
    for name, device in world.devices.items():
        doubles = [each for each in again(found[name]) if device.attempts[returned.sample_id(each.headers)] < 2]
        assert len(doubles) <= world.num_kills * per_kill + unread[name], name
        assert max(ids_of(doubles).values(), default=0) <= world.num_kills, name
        assert all("edged-double" in dict(record.headers) for record in doubles), name
    assert not [line for child in world.site.children for line in child.seen("mqtt.session_lost")]


async def test_mosquitto_killed_and_without_its_store_loses_what_is_stated_tells_it_and_nothing_with_receipts(
    fresh_apache_kafka: Apache, tmp_path: Path
) -> None:
    """Lost is what was acknowledged since its last save, of those alone that have nothing but the broker's word."""
    lossy: list[tuple[float, float]] = []
    async with at_large(fresh_apache_kafka, tmp_path) as world:
        async with world.publishing():
            for forgets in (False, True, False):
                await world.seconds(world.rng.randint(12, 20))
                since = world.last_acknowledged
                if forgets:  # all that waits is lost: nothing that was there before
                    await world.all_there(lossy[-1][1])
                else:
                    world.edge.signal(signal.SIGSTOP)
                    await world.seconds(world.rng.randint(3, 9))
                await asyncio.to_thread(world.mosquitto.kill)
                if forgets:
                    world.mosquitto.forget()
                else:
                    since = world.mosquitto.saved_at
                before = world.edge.lines[-1]["ts"]
                world.edge.signal(signal.SIGCONT)
                await asyncio.to_thread(world.mosquitto.start)
                await world.until_bridged(before)
                lossy.append((since, world.last_acknowledged))
        found = await world.assert_archived_once()
    assert_once(found)
    lost = {name: set(each.acknowledged) - set(ids_of(found[name])) for name, each in world.devices.items()}
    assert not [name for name in KEPT if lost[name]]
    assert any(lost.values())
    for name, ids in lost.items():
        acknowledged = world.devices[name].acknowledged
        unexplained = {i for i in ids if not any(since <= acknowledged[i] <= until for since, until in lossy)}
        assert not unexplained, name
        if ids and FLEET[name].keys.endswith("counter"):
            assert world.edge.seen("mqtt.gap", device=name), name
    assert world.edge.seen("mqtt.session_lost")
