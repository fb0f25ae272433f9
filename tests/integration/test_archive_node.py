"""The archive node as a real process: killed again and again while it writes."""

import asyncio
import random
import signal
from pathlib import Path

from edged.cli.demo.processes import Child
from tests.support.site import Site, following, running, stopped

KILLS = 5
RATE = 250.0


async def kill_while_writing(vault: Child, site: Site) -> None:
    """Kill the node in the middle of writing a file, which stays behind torn."""
    folder = site.archive_folder / "fashion" / "pi-a"

    def is_writing() -> bool:
        return any(folder.glob("*/.*.tmp-*"))

    while True:  # a folder tells nobody that a file came
        await asyncio.sleep(0)
        assert vault.exit_code is None, vault.last_words()
        if is_writing():
            await stand_still(vault)
            if is_writing():
                break
            vault.signal(signal.SIGCONT)  # the file was whole before
    vault.signal(signal.SIGKILL)
    await vault.ended()
    assert is_writing()


async def stand_still(vault: Child) -> None:
    """Freeze the node; return when none of its threads runs any more: one may end a call to the disk first."""
    vault.signal(signal.SIGSTOP)
    while not _is_stopped(vault.pid):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)


def _is_stopped(pid: int) -> bool:
    states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


async def test_killed_while_it_writes_it_archives_every_sample_once(apache_kafka, tmp_path):
    """kill -9 in the middle of files and between them, while two devices publish: nothing is lost or twice."""
    rng = random.Random(0)  # noqa: S311 - picks moments, guards nothing
    async with running(Site(tmp_path, apache_kafka.bootstrap, site="vault-killed", flush="100ms")) as site:
        await site.start("run", "pi-a")
        sensors = await site.start_sensors(RATE)
        for kill in range(KILLS):
            vault = await site.start("run", "vault")
            await following(vault, "archive.flushed", rng.randint(1, 5))
            if kill % 2:
                vault.signal(signal.SIGKILL)
                await vault.ended()
            else:
                await kill_while_writing(vault, site)
        assert [sensor.exit_code for sensor in sensors] == [None, None], "the devices published all the time"
        for sensor in sensors:
            await stopped(sensor)

        vault = await site.start("run", "vault")
        await site.assert_each_archived_once(vault)


async def test_without_its_folder_it_is_degraded_makes_none_and_goes_on_when_the_folder_is_back(
    embedded_broker, tmp_path
):
    """As when the file system under it is not mounted yet."""
    async with running(Site(tmp_path, embedded_broker.bootstrap, site="vault-unmounted")) as site:
        unmounted = site.archive_folder.rename(tmp_path / "unmounted")
        vault = await site.start("run", "vault")
        line = await vault.wait_for("health.degraded", part="archive")
        assert f"{site.archive_folder} is not there" in line["reason"]
        assert not site.archive_folder.exists()

        unmounted.rename(site.archive_folder)
        await vault.wait_for("health.recovered", part="archive")


async def test_a_site_without_devices_trains_on_what_was_imported(embedded_broker, tmp_path):
    """Its archive node has no source to read, its edge and companion no device."""
    async with running(Site(tmp_path, embedded_broker.bootstrap, site="vault-imported", epochs=1)) as site:
        lines = [line for line in site.topology.read_text().splitlines() if not line.startswith("  - {name: cam-")]
        site.topology.write_text("\n".join(lines).replace("iot:", "iot: []"))
        await site.import_fashion(500, test_limit=100)
        vault, edge, companion = await site.start_nodes()
        await following(vault, "res.sample", 3)
        await edge.wait_for("train.finished")
        await companion.wait_for("infer.model_loaded")
