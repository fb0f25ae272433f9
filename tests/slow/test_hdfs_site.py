"""The example of two archive nodes on HDFS, whole, with one of them and a DataNode killed while devices publish."""

import asyncio
import re
import signal
from itertools import islice
from pathlib import Path

from edged.app.objects import open_archive
from edged.device import Device
from edged.domain.topology import Topology
from tests.support.examples import example, made_samples
from tests.support.hdfs import Hdfs, need_hdfs
from tests.support.site import Site, eventually, following, running

EPOCHS = 4
PER_DEVICE = 400
FILE = "08-two-archive-nodes.yaml"


async def publish(topology: Topology, device: str, begun: asyncio.Event, goes_on: asyncio.Event) -> None:
    """Half of the samples before `goes_on`, the others behind it."""
    samples = made_samples(topology, device)
    async with Device(topology, device, gives_up=True) as publisher:
        for _ in range(2):
            await publisher.publish_many(list(islice(samples, PER_DEVICE // 2)))
            begun.set()
            await goes_on.wait()


async def test_it_runs_whole_with_an_archive_node_and_a_datanode_killed(apache_kafka, tmp_path: Path):
    need_hdfs()
    with Hdfs() as cluster:
        place = f"hdfs://{cluster.address}/sites/edged"
        text = example(FILE, "quarry", f'{{bootstrap: ["{apache_kafka.bootstrap}"]}}', place, epochs=EPOCHS)
        site = Site(tmp_path, apache_kafka.bootstrap)
        site.topology.write_text(text)
        topology = site.loaded()
        assert await site.edged("archive", "init", str(site.topology)) == f"{place} is an archive now\n"
        async with running(site):
            vaults = {archive.name: await site.start("run", archive.name) for archive in topology.archive}
            for vault in vaults.values():
                await vault.wait_for("archive.assigned")
            edges = [await site.start("run", edge.name) for edge in topology.edges]
            goes_on, begun = asyncio.Event(), [asyncio.Event() for _ in topology.iot]
            async with asyncio.TaskGroup() as devices:
                for device, event in zip(topology.iot, begun, strict=True):
                    devices.create_task(publish(topology, device.name, event, goes_on))
                for event in begun:
                    await event.wait()
                east, west = vaults["vault-east"], vaults["vault-west"]
                await east.wait_for("archive.flushed")
                taken_over = following(west, "archive.assigned")
                east.signal(signal.SIGKILL)
                cluster.datanodes[0].kill()
                await east.ended()
                goes_on.set()
                await taken_over

            async def archived() -> bool:
                return sum(each.samples for each in open_archive(topology).summaries()) >= PER_DEVICE * len(
                    topology.iot
                )

            await eventually(archived, west)
            for edge in edges:
                await edge.wait_for("train.finished")
            found = sorted(site.archived())
            assert found == sorted(
                (device.name, 0, number) for device in topology.iot for number in range(PER_DEVICE)
            ), "each once"
            verified = await site.edged("archive", "verify", str(site.topology))
            assert re.search(r"all is well: \d+ files read$", verified.strip())
