"""What an edge has an SD card write, by the card's own count, against what `edged check` projects from the topology."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from edged.cli.demo.processes import Child
from edged.domain.cache.write_budget import DAY_S
from edged.domain.validation.memory import training_memory
from edged.domain.validation.writes import edge_writes
from tests.support.sd_card import hindrance, journal, sd_card
from tests.support.site import DESIGNS_MODEL, Site, following, running

CHECKPOINT_S = 1.0
LINES = 20
FACTOR = 1.5
"""The projection is that of a measured file system and journal: this one's block groups, and how many lines Linux
gathers until it writes, differ from run to run."""


async def test_the_projection_is_within_half_of_what_was_written(embedded_broker, tmp_path: Path):
    """An edge's log, checkpoints and ends of epochs; the cache is on no disk, since its part is a limit."""
    if reason := hindrance():
        pytest.skip(reason)
    settings = {"epochs": 100_000, "model": DESIGNS_MODEL, "checkpoint": "1s", "edge": "cache: {disk: 0}, "}
    site = Site(tmp_path, embedded_broker.bootstrap, site="card", **settings)
    site.topology.write_text(f"{site.topology.read_text()}log: {{resources: 1s}}\n")
    topology = site.loaded()
    await site.import_fashion(7000, test_limit=100)

    with sd_card(tmp_path / "pi-a") as card, journal(tmp_path / "pi-a" / "journal") as log:
        async with running(site):
            await site.start("run", "vault")
            edge = await Child.start(
                "run pi-a", "run", str(site.topology), "--node", "pi-a",
                environment=site.environment("pi-a"), on_line=lambda _, line: log(line),
            )  # fmt: skip
            site.children.append(edge)
            await edge.wait_for("train.epoch")
            saved, epochs = len(edge.seen("checkpoint.saved")), len(edge.seen("train.epoch"))
            before = await asyncio.to_thread(card.written_bytes)
            await following(edge, "res.sample", LINES)
            written = await asyncio.to_thread(card.written_bytes) - before
            saved, epochs = len(edge.seen("checkpoint.saved")) - saved, len(edge.seen("train.epoch")) - epochs

    (job,) = topology.jobs
    memory = training_memory(job, topology.stream(job.stream))
    year = edge_writes(topology, topology.edges[0], [memory], 60.0)
    alone = edge_writes(replace(topology, jobs=()), topology.edges[0], [], 60.0)
    per_checkpoint = year.checkpoints * job.checkpoint_s / (365 * DAY_S)
    projected = alone.log * LINES / (365 * DAY_S) + (saved - epochs) * per_checkpoint + epochs * year.per_epoch
    told = f"{written / 1e6:.1f} MB written, {projected / 1e6:.1f} MB projected: {saved} checkpoints, {epochs} epochs"
    print(told)  # noqa: T201 - the test's figures
    assert projected / FACTOR < written < projected * FACTOR, told
