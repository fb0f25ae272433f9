"""An edge as a real process: killed, stopped, and left alone by its archive in the middle of an epoch."""

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from edged.cli.demo.processes import Child
from edged.domain.training import checkpoint
from tests.support.brokers import Embedded, need_embedded
from tests.support.proxy import Gate, gated
from tests.support.site import Site, degraded, following, running, starved, stopped

SAMPLES = 6000
"""Three windows of an epoch, of which an edge never holds more than two."""
NO_CACHE = "cache: {memory: 0MiB, disk: 0MiB}, "
"""It needs the archive in each epoch."""
EPOCHS = 2
STEPS = -(-SAMPLES // 64)
"""Of one epoch."""


def final_weights(site: Site) -> str:
    """A digest of the newest checkpoint's parameters and optimizer state."""
    newest = max(site.state("pi-a").glob("checkpoint-*.safetensors"))
    state = checkpoint.decode(newest.read_bytes())
    assert state.position.epoch == EPOCHS
    digest = hashlib.sha256()
    for arrays in (state.params, *state.slots.values()):
        for name, array in sorted(arrays.items()):
            digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()


async def train_to_the_end(site: Site) -> Child:
    edge = await site.start("run", "pi-a")
    await edge.wait_for("train.finished")
    await stopped(edge)
    return edge


@asynccontextmanager
async def training_site(folder, gate, **settings) -> AsyncIterator[tuple[Site, Child]]:
    """A site with its archive node, ready to train. All it says to an edge goes through the gate."""
    settings |= {"epochs": EPOCHS, "site": folder.name, "edge": NO_CACHE}
    async with running(Site(folder, f"127.0.0.1:{gate.port}", **settings)) as site:
        await site.import_fashion(SAMPLES)
        yield site, await site.start("run", "vault")


@pytest.fixture(scope="module")
def gate_for_all() -> Iterator[Gate]:
    """Between the broker and its clients; it holds the archive's answers."""
    need_embedded()
    with gated(Embedded) as (_, gate):
        yield gate


@pytest.fixture
def gate(gate_for_all) -> Iterator[Gate]:
    """Open at first, and again at the end."""
    yield gate_for_all
    gate_for_all.open()


class Undisturbed(NamedTuple):
    """A run that nothing interrupts: its final weights, and what the archive sends in an epoch of it."""

    weights: str
    epoch_bytes: float


@pytest.fixture(scope="module")
def undisturbed(gate_for_all, tmp_path_factory) -> Undisturbed:
    async def train() -> str:
        async with training_site(tmp_path_factory.mktemp("undisturbed"), gate_for_all) as (site, _):
            await train_to_the_end(site)
            return final_weights(site)

    return Undisturbed(asyncio.run(train()), gate_for_all.passed_bytes / EPOCHS)


async def test_killed_in_its_second_epoch_it_ends_with_the_same_weights(undisturbed, gate, tmp_path):
    """kill -9 in the middle of the second epoch: it is trained again, to the same weights, bit for bit."""
    async with training_site(tmp_path, gate) as (site, _):
        gate.let_pass(1.5 * undisturbed.epoch_bytes)
        edge = await site.start("run", "pi-a")
        await edge.wait_for("train.epoch", epoch=0)
        await starved(edge)
        edge.signal(signal.SIGKILL)
        assert await edge.ended() == -signal.SIGKILL
        assert not edge.seen("train.epoch", epoch=1)
        gate.open()

        again = await train_to_the_end(site)

        assert (await again.wait_for("train.started")).items() >= {"epoch": 1, "step": STEPS, "resumed": True}.items()
        assert final_weights(site) == undisturbed.weights


async def test_killed_behind_a_checkpoint_inside_an_epoch_it_goes_on_from_there(undisturbed, gate, tmp_path):
    """With a checkpoint each second it begins in the middle of the epoch, and ends with the same weights."""
    async with training_site(tmp_path, gate, checkpoint="1s") as (site, _):
        edge = await in_the_middle_of_an_epoch(site, gate, undisturbed)
        gate.let_pass(0.35 * undisturbed.epoch_bytes)  # the steps that follow on the wait save a checkpoint
        saved = await edge.wait_for("checkpoint.saved")
        edge.signal(signal.SIGKILL)
        assert await edge.ended() == -signal.SIGKILL
        assert not edge.seen("train.epoch")
        gate.open()

        again = await train_to_the_end(site)

        step = again.seen("train.started")[0]["step"]
        assert saved["generation"] <= step < STEPS
        assert again.seen("epoch.drawn")[0].items() >= {"epoch": 0, "first_sample": 64 * step}.items()
        assert final_weights(site) == undisturbed.weights


async def test_stopped_in_the_middle_of_an_epoch_it_goes_on_from_the_very_step(undisturbed, gate, tmp_path):
    """SIGTERM while it trains: a checkpoint of that step, exit code 0, and the same weights in the end."""
    async with training_site(tmp_path, gate) as (site, vault):
        edge = await in_the_middle_of_an_epoch(site, gate, undisturbed)
        gate.let_pass(0.35 * undisturbed.epoch_bytes)
        await following(vault, "archive.served")
        await stopped(edge)
        [saved] = edge.seen("checkpoint.saved")
        assert not edge.seen("train.epoch")
        gate.open()

        again = await train_to_the_end(site)

        step = saved["generation"]
        assert again.seen("train.started")[0].items() >= {"epoch": 0, "step": step, "resumed": True}.items()
        assert again.seen("epoch.drawn")[0].items() >= {"epoch": 0, "first_sample": 64 * step}.items()
        assert final_weights(site) == undisturbed.weights


async def test_an_archive_that_dies_and_comes_back_changes_nothing_but_the_time(undisturbed, gate, tmp_path):
    """The edge says that the archive is away and goes on by itself, to the same weights."""
    async with training_site(tmp_path, gate) as (site, vault):
        gate.let_pass(0.5 * undisturbed.epoch_bytes)
        edge = await site.start("run", "pi-a")
        await vault.wait_for("archive.served", times=2)  # the snapshot and the first window
        vault.signal(signal.SIGKILL)
        killed = datetime.now(UTC)
        await vault.ended()
        gate.open()
        await degraded(edge, "archive", since=killed, before="train.finished")

        await site.start("run", "vault")
        await edge.wait_for("health.recovered", part="archive")
        await edge.wait_for("train.finished")

        await stopped(edge)
        assert final_weights(site) == undisturbed.weights


async def in_the_middle_of_an_epoch(site: Site, gate: Gate, undisturbed: Undisturbed) -> Child:
    """An edge that has trained its first window and cannot have the rest yet."""
    gate.let_pass(0.5 * undisturbed.epoch_bytes)
    edge = await site.start("run", "pi-a")
    await starved(edge)
    return edge
