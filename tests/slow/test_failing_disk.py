"""Disks that fail under whole nodes: each says so, loses nothing that was acknowledged, and recovers by itself.

See also: `faults/soak.py`, which draws such faults at random, and `test_power_cuts`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.disk import BROKEN, FULL, READ_ONLY, Call, Disk
from tests.support.shared_brokers import SharedBroker
from tests.support.site import DEVICES, Site, following, own_name, running

TOLD = ("checkpoint.failed",)


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
    source = ("--from", "fashion-mnist-small", "--rate", "max", "--count")
    async with running(site, TOLD):
        await site.import_fashion(100, test_limit=100)
        (tmp_path / "pi-a" / "state").mkdir(parents=True)
        vault, edge = await site.start("run", "vault"), await site.start("run", "pi-a")
        await edge.wait_for("checkpoint.saved")

        site.fail(errors)
        assert await (await site.start("sensor", DEVICES[0], *source, "40")).ended() == 0
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
