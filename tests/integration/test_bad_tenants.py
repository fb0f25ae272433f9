"""Nodes among whose tenants one is bad in each of its roles: the others notice nothing."""

from collections.abc import Iterable

import numpy as np

from edged.adapters.images import encode
from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.cli.demo.observer import archived_samples
from edged.cli.demo.processes import Child, LogLine
from edged.domain.archive import protocol
from edged.domain.archive.protocol import SnapshotRequest
from edged.domain.place import Place
from edged.domain.samples import pack as packs
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample
from edged.ports import Log, Message, TopicPartition
from tests.support.bad_tenants import damage_newest_file, request_for_absent_blocks
from tests.support.foreign_producers import UNREADABLE, write_batch
from tests.support.site import Site, moment, running, stopped

BAD, GOOD = "pi-a", "pi-b"
DEVICE_OF = {BAD: "cam-01", GOOD: "cam-03"}


def two_edges(site: Site) -> Site:
    """The site with one device at each of its edges, whose part the test plays."""
    site.topology.write_text(site.topology.read_text().replace("cam-03, edge: pi-a", "cam-03, edge: pi-b"))
    return site


async def send_packs(site: Site, log: Log, firsts: Iterable[int]) -> None:
    """From both edges, a pack of four samples from each of these device offsets on."""
    for first in firsts:
        for edge, device in DEVICE_OF.items():
            samples = tuple(Sample(device, 0, first + i, 0, "boot", "raw", bytes(784)) for i in range(4))
            blob = packs.encode(Pack("fashion", samples, {f"{device}/0": Place(first + 4)}))
            await log.append([Message(site.loaded().archive_topic("fashion", edge), blob)])


async def archived(vault: Child, **samples: int) -> None:
    """Wait until the node has written so many samples of each source."""

    def is_enough(lines: Iterable[LogLine]) -> bool:
        flushed = [line for line in lines if line.get("event") == "archive.flushed"]
        return all(
            sum(line["samples"] for line in flushed if line["source"] == source.replace("_", "-")) >= number
            for source, number in samples.items()
        )

    await vault.until(is_enough, f"it archived {samples}")


async def test_a_damaged_newest_file_and_a_request_for_20000_absent_blocks_are_their_edges_trouble(
    apache_kafka, tmp_path
):
    site = two_edges(Site(tmp_path, apache_kafka.bootstrap, site="bad-tenants", edges=(BAD, GOOD), flush="100ms"))
    async with running(site), KafkaLog(site.loaded().kafka, RecordingHealth()) as log:
        vault = await site.start("run", "vault")
        await send_packs(site, log, (0, 4))
        await archived(vault, pi_a=8, pi_b=8)
        await stopped(vault)
        kept = damage_newest_file(site.archive_folder, BAD)

        await send_packs(site, log, (8,))
        vault = await site.start("run", "vault")
        damaged = await vault.wait_for("archive.damaged")
        await archived(vault, pi_a=4, pi_b=4)

        requests = site.loaded().requests_topic
        snapshots: list[protocol.Request] = [SnapshotRequest(f"s-{i}", GOOD, "fashion") for i in range(3)]
        for request in [request_for_absent_blocks(BAD, 20_000, sources=(BAD, GOOD)), *snapshots]:
            await log.append([Message(requests, protocol.encode_request(request))])
        await vault.wait_for("archive.served", edge=BAD)

        served = [(line["edge"], line["missing"]) for line in vault.seen("archive.served")]
        found = sorted((each.device, each.offset) for each in archived_samples(site.loaded()))

    assert (damaged["source"], damaged["archived_again"]) == (BAD, True)
    assert (kept.parents[1] / "aside" / kept.name).exists()
    assert found == [(device, offset) for device in DEVICE_OF.values() for offset in range(12)]
    assert served == [(GOOD, 0)] * 3 + [(BAD, 20_000)], "the others' requests did not wait for it"
    assert [line["blocks"] for line in vault.seen("archive.absent")] == [20_000]
    assert vault.seen("archive.unreadable") == vault.seen("health.degraded") == []


async def test_a_device_that_sends_junk_and_unreadable_batches_costs_its_edge_two_lines_and_the_other_devices_nothing(
    apache_kafka, tmp_path
):
    site = Site(tmp_path, apache_kafka.bootstrap, site="bad-device", flush="100ms")
    async with running(site, excused=["ingest.rejected"]), KafkaLog(site.loaded().kafka, RecordingHealth()) as log:
        bad, good = (site.loaded().device_topic(device) for device in ("cam-01", "cam-02"))
        edge = await site.start("run", "pi-a")
        await edge.wait_for("ingest.reading")
        for _ in range(20):
            await write_batch(apache_kafka.bootstrap, bad, UNREADABLE)
            await log.append([Message(bad, b"junk")] * 10)
        picture = encode(np.zeros((28, 28, 1), np.uint8), "png")
        await log.append([Message(good, picture, key=b"boot")] * 100)
        vault = await site.start("run", "vault")
        await archived(vault, pi_a=100)
        found = [(each.device, each.offset) for each in archived_samples(site.loaded())]
        letters = await log.watermarks([TopicPartition(site.loaded().dead_letters_topic("pi-a"))])

    assert found == [("cam-02", offset) for offset in range(100)]
    assert [marks.high for marks in letters.values()] == [200]
    told = [*edge.seen("ingest.rejected"), *edge.seen("kafka.unreadable")]
    assert {line.get("device") or line["topic"] for line in told} == {"cam-01", bad}
    lasted_s = (moment(edge.lines[-1]) - moment(edge.lines[0])).total_seconds()
    assert len(told) <= 2 * (1 + lasted_s // 10), "one line of each in 10 s"
