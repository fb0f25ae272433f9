"""Disks that fail under whole nodes: each says so, loses nothing that was acknowledged, and recovers by itself.

See also: `faults/soak.py`, which draws such faults at random, and `test_power_cuts`.
"""

import contextlib
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from edged.adapters.disk.checkpoint_dir import KEPT
from tests.support.disk import BROKEN, FULL, READ_ONLY, Call, Disk
from tests.support.shared_brokers import SharedBroker
from tests.support.site import DEVICES, SAMPLE_S, Site, following, own_name, running
from tests.support.small_disk import fill, mount, mounted

TOLD = ("checkpoint.failed",)
MAX_LAG_MS = 100.0

_SOURCE = ("--from", "fashion-mnist-small", "--rate", "max", "--count")
_LONG_SAMPLES = round(70 / SAMPLE_S)
"""Of `res.sample`: longer than a service that is watched may stand still."""


class SiteOfDisks(Site):
    """The archive's folder and the edge's state are on disks of their own."""

    def __init__(self, folder: Path, broker: str, **settings: Any) -> None:
        super().__init__(folder, broker, **settings)
        self.disks = {
            "vault": Disk(folder / "vault.disk", self.archive_folder),
            "pi-a": Disk(folder / "pi-a.disk", folder / "pi-a"),
        }

    def environment(self, name: str) -> Mapping[str, str]:
        disk = self.disks.get(name)
        return {**super().environment(name), **(disk.environment if disk else {})}

    def fail(self, errors: Mapping[Call, int]) -> None:
        for disk in self.disks.values():
            disk.fail(errors)

    def hang(self) -> None:
        for disk in self.disks.values():
            disk.slow(600)

    def heal(self) -> None:
        for disk in self.disks.values():
            disk.heal()


@pytest.mark.parametrize("errors", [FULL, BROKEN, READ_ONLY], ids=["full", "broken", "read_only"])
async def test_a_disk_that_fails_under_running_nodes_degrades_them_until_it_works(
    apache_kafka: SharedBroker, tmp_path: Path, errors: Mapping[Call, int]
):
    site = SiteOfDisks(
        tmp_path, apache_kafka.bootstrap, site=own_name(tmp_path), epochs=100_000, checkpoint="1s", flush="200ms"
    )
    async with running(site, TOLD):
        await site.import_fashion(100, test_limit=100)
        (tmp_path / "pi-a" / "state").mkdir(parents=True)
        vault, edge = await site.start("run", "vault"), await site.start("run", "pi-a")
        await edge.wait_for("checkpoint.saved")

        site.fail(errors)
        assert await (await site.start("sensor", DEVICES[0], *_SOURCE, "40")).ended() == 0
        told = await vault.wait_for("health.degraded")
        await edge.wait_for("checkpoint.failed")
        assert any(part in told["part"] for part in ("archive", "disk")), told
        await following(edge, "res.sample", 5)

        site.heal()
        await site.assert_each_archived_once(vault)
        await following(edge, "checkpoint.saved")
        await edge.wait_for("health.recovered", part="disk")
        assert await edge.stop() == 0
        assert await vault.stop() == 0


async def test_a_disk_that_hangs_is_told_within_10_s_and_stalls_nobody_else(apache_kafka: SharedBroker, tmp_path: Path):
    """For longer than a service may stand still: the watchdog is fed, the loop never waits, and all is made up for."""
    site = SiteOfDisks(
        tmp_path, apache_kafka.bootstrap, site=own_name(tmp_path), epochs=100_000, checkpoint="1s", flush="200ms"
    )
    async with running(site):
        await site.import_fashion(100, test_limit=100)
        (tmp_path / "pi-a" / "state").mkdir(parents=True)
        vault, edge = await site.start("run", "vault"), await site.start("run", "pi-a")
        await edge.wait_for("checkpoint.saved")

        site.hang()
        assert await (await site.start("sensor", DEVICES[0], *_SOURCE, "40")).ended() == 0
        for node, part in ((edge, "disk"), (vault, "archive")):
            told = await node.wait_for("health.degraded", part=part)
            assert "has not returned for 8 s" in told["reason"]
        await following(vault, "res.sample", _LONG_SAMPLES)
        for node in (vault, edge):
            late_ms = [line["loop_lag_ms"] for line in node.seen("res.sample")[-_LONG_SAMPLES:]]
            assert statistics.median(late_ms) < MAX_LAG_MS, late_ms

        site.heal()
        await site.assert_each_archived_once(vault)
        await edge.wait_for("health.recovered", part="disk")
        await following(edge, "checkpoint.saved")


def take_bytes(folder: Path) -> None:
    fill(folder)


def take_inodes(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for number in itertools.count():
            (folder / f"filler-{number}").touch()


def give_back(folder: Path) -> None:
    for filler in folder.glob("filler*"):
        filler.unlink()


def remount(folder: Path) -> None:
    mount(folder, "remount,ro")


def remount_writable(folder: Path) -> None:
    mount(folder, "remount,rw")


@pytest.mark.parametrize(
    ("options", "disks", "fail", "heal"),
    [
        ("size=4m", ("archive", "pi-a"), take_bytes, give_back),
        ("size=64m,nr_inodes=80", ("archive", "pi-a"), take_inodes, give_back),
        ("size=64m", ("archive",), remount, remount_writable),
    ],
    ids=["full", "without_inodes", "remounted_read_only"],
)
async def test_a_file_system_that_takes_nothing_for_a_while_costs_nothing(
    apache_kafka: SharedBroker,
    tmp_path: Path,
    options: str,
    disks: Sequence[str],
    fail: Callable[[Path], None],
    heal: Callable[[Path], None],
):
    """By the kernel's own word. Meanwhile an edge saves its checkpoints in the room of older ones."""
    with contextlib.ExitStack() as stack:
        folders = [tmp_path / name for name in disks]
        for folder in folders:
            folder.mkdir()
            stack.enter_context(mounted(folder, options))
        settings = {"site": own_name(tmp_path), "epochs": 100_000, "checkpoint": "1s", "flush": "200ms"}
        site = Site(tmp_path, apache_kafka.bootstrap, **settings)
        async with running(site, TOLD):
            await site.import_fashion(100, test_limit=100)
            vault, edge = await site.start("run", "vault"), await site.start("run", "pi-a")
            await edge.wait_for("checkpoint.saved", KEPT)

            for folder in folders:
                fail(folder)
            sensor = await site.start("sensor", DEVICES[0], *_SOURCE, "40")
            assert await sensor.ended() == 0
            assert (await vault.wait_for("health.degraded"))["part"].startswith("archive")
            if "pi-a" in disks:
                await edge.wait_for("checkpoint.made_room")
            await following(edge, "checkpoint.saved", 2)

            for folder in folders:
                heal(folder)
            await site.assert_each_archived_once(vault)
            await following(edge, "checkpoint.saved", KEPT)
            assert len(list(site.state("pi-a").glob("checkpoint-*"))) == KEPT
