"""What the version before has left behind, on real processes: brought to the present, or refused in words and kept."""

import asyncio
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.cli.demo.observer import archived_samples
from edged.domain.archive.layout import MARKER
from edged.domain.place import Place
from edged.domain.samples import pack as packs
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample
from edged.ports import Message
from tests.adapters.parquet.test_migrate import OF_BEFORE
from tests.support.recreated import recreate
from tests.support.site import Site, own_name, running

ARCHIVED = 6
"""Offsets of pi-a in that archive."""


def pack(offset: int) -> bytes:
    return packs.encode(
        Pack("fashion", (Sample("cam-01", 0, offset, 0, "boot", "raw", bytes(784)),), {"cam-01/0": Place(offset + 1)})
    )


async def test_packs_of_the_version_before_are_archived_by_it_or_kept(apache_kafka, tmp_path: Path) -> None:
    site = Site(tmp_path, apache_kafka.bootstrap, site=own_name(tmp_path), flush="100ms")
    shutil.rmtree(site.archive_folder)
    shutil.copytree(OF_BEFORE, site.archive_folder)
    (site.archive_folder / MARKER).write_text(json.dumps({"format": 1, "site": site.loaded().site}))
    topic = site.loaded().archive_topic("fashion", "pi-a")

    async with running(site, ["kafka.another_log"]), KafkaLog(site.loaded().kafka, RecordingHealth()) as log:

        async def send(offsets: Iterable[int], version: bytes) -> None:
            blobs = [pack(offset).replace(b"pack/2", version) for offset in offsets]
            await log.append([Message(topic, blob) for blob in blobs])

        await send(range(ARCHIVED + 1), b"pack/1")
        await site.edged("archive", "migrate", str(site.topology), expect=78)
        vault = await site.start("run", "vault")
        refused = await vault.wait_for("health.degraded", part="archive/fashion/pi-a")
        assert "edged archive migrate" in refused["reason"]
        await vault.stop()

        await asyncio.to_thread(recreate, apache_kafka.bootstrap, topic)  # as if all of it had been archived
        await site.edged("archive", "migrate", str(site.topology))
        await send([100], b"pack/2")
        await send([101], b"pack/1")
        await send([102], b"pack/2")
        vault = await site.start("run", "vault")
        refused = await vault.wait_for("health.degraded", part="archive/fashion/pi-a")
        assert f"offset 1 of {topic} holds a pack of another version" in refused["reason"]
        assert [each.offset for each in archived_samples(site.loaded()) if each.offset >= 100] == [100]

        address = re.search(r"edged archive quarantine (\S+)`", refused["reason"])
        assert address is not None
        await site.edged("archive", "quarantine", str(site.topology), address[1])
        passed = await vault.wait_for("archive.passed", address=address[1])
        kept = await asyncio.to_thread(Path(passed["kept_as"]).read_bytes)
        assert kept == pack(101).replace(b"pack/2", b"pack/1")
        await vault.wait_for("health.recovered", part="archive/fashion/pi-a")
        assert [each.offset for each in archived_samples(site.loaded()) if each.offset >= 100] == [100, 102]
