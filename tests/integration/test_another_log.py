"""Topics that somebody deletes and recreates, and a broker rebuilt without its data, under a site's real processes.

Numbered samples: all that were published in either log are archived and predicted, each once.
"""

import asyncio
from collections import Counter
from pathlib import Path

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.cli.demo.observer import archived_samples, observe
from edged.cli.demo.processes import Child
from edged.ports import Message
from tests.support.brokers import Apache
from tests.support.recreated import rebuild, recreate
from tests.support.shared_brokers import SharedBroker
from tests.support.site import Site, eventually, running, stopped

TOLD = ("kafka.another_log", "uplink.another_log", "kafka.gap", "archive.gap", "archive.rejected")


async def publish(site: Site, device: str, numbers: range) -> None:
    """Raw images, each with its number in its first pixels."""
    topic = site.loaded().device_topic(device)
    async with KafkaLog(site.loaded().kafka, RecordingHealth()) as log:
        await log.append([Message(topic, number.to_bytes(2, "big") + bytes(782), b"boot") for number in numbers])


def numbers_archived(site: Site) -> list[int]:
    """The numbers of all archived samples."""
    return sorted(int.from_bytes(each.payload[:2], "big") for each in archived_samples(site.loaded()))


async def until_archived_once(site: Site, vault: Child, numbers: range) -> None:
    async def enough() -> bool:
        return len(numbers_archived(site)) >= len(numbers)

    await eventually(enough, vault)
    assert numbers_archived(site) == list(numbers)
    await site.edged("archive", "verify", str(site.topology))


async def until_predicted_once(site: Site, companion: Child, count: int) -> None:
    async def identities() -> list[tuple[str, str, int]]:
        async with observe(site.loaded()) as observer:
            return [(each.device, each.incarnation, each.offset) for each in await observer.predictions("pi-a")]

    async def enough() -> bool:
        return len(await identities()) >= count

    await eventually(enough, companion)
    found = Counter(await identities())
    assert len(found) == count
    assert set(found.values()) == {1}


async def test_a_recreated_topic_loses_and_doubles_nothing(tmp_path: Path, apache_kafka: SharedBroker):
    async with running(Site(tmp_path, apache_kafka.bootstrap, site=f"again-{tmp_path.name}"), TOLD) as site:
        vault, edge, companion = await site.serve()
        device = site.loaded().device_topic("cam-01")
        await publish(site, "cam-01", range(120))
        await until_archived_once(site, vault, range(120))
        await until_predicted_once(site, companion, 120)

        await asyncio.to_thread(recreate, apache_kafka.bootstrap, device)
        await publish(site, "cam-01", range(120, 240))
        await until_archived_once(site, vault, range(240))
        await until_predicted_once(site, companion, 240)
        assert (await edge.wait_for("kafka.another_log"))["topic"] == device

        await stopped(edge)
        await asyncio.to_thread(recreate, apache_kafka.bootstrap, device)
        await publish(site, "cam-01", range(240, 440))
        await site.start("run", "pi-a")
        await until_archived_once(site, vault, range(440))
        await until_predicted_once(site, companion, 440)

        archive = site.loaded().archive_topic("fashion", "pi-a")
        await asyncio.to_thread(recreate, apache_kafka.bootstrap, archive)
        await publish(site, "cam-01", range(440, 500))
        await until_archived_once(site, vault, range(500))
        assert (await vault.wait_for("kafka.another_log"))["topic"] == archive


async def test_a_broker_rebuilt_empty_under_running_nodes(tmp_path: Path, fresh_apache_kafka: Apache):
    async with running(Site(tmp_path, fresh_apache_kafka.bootstrap, site="rebuilt"), TOLD) as site:
        vault, _edge, companion = await site.serve()
        await publish(site, "cam-01", range(60))
        await until_archived_once(site, vault, range(60))
        await until_predicted_once(site, companion, 60)

        await asyncio.to_thread(rebuild, fresh_apache_kafka)
        await publish(site, "cam-01", range(60, 200))
        await until_archived_once(site, vault, range(200))
        await until_predicted_once(site, companion, 140)
