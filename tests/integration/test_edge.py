"""An edge as a real process: killed, stopped, and left alone by its archive in the middle of an epoch."""

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from edged.cli.demo.children import Child
from edged.domain import checkpoint
from tests.integration.site import Site, degraded, following, running, stopped

pytestmark = pytest.mark.integration
SAMPLES = 6000
"""Three windows of an epoch, of which an edge never holds more than two: it needs the archive in each epoch."""
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
async def training_site(folder, bootstrap, **settings) -> AsyncIterator[tuple[Site, Child]]:
    """A site with its archive node, ready to train."""
    async with running(Site(folder, bootstrap, epochs=EPOCHS, site=folder.name, **settings)) as site:
        await site.import_fashion(SAMPLES)
        yield site, await site.start("run", "vault")


@pytest.fixture(scope="module")
def undisturbed(embedded_broker, tmp_path_factory) -> str:
    """The final weights of a run that nothing interrupts."""

    async def train() -> str:
        async with training_site(tmp_path_factory.mktemp("undisturbed"), embedded_broker.bootstrap) as (site, _):
            await train_to_the_end(site)
            return final_weights(site)

    return asyncio.run(train())


async def reach_mid_epoch(edge: Child, vault: Child, epoch: int) -> None:
    """Return while the edge trains in the middle of the epoch.

    The archive is frozen from the epoch's beginning until the edge has trained all that it holds; then the next
    window is on its way, with which the epoch cannot end yet.
    """
    if epoch:
        await edge.wait_for("train.epoch", epoch=epoch - 1)
    else:
        await following(vault, "archive.served", 2)  # the snapshot and the first window
    vault.signal(signal.SIGSTOP)
    await edge.until(lambda lines: any(line.get("wait_fraction", 0.0) > 0.99 for line in list(lines)[-2:]))
    vault.signal(signal.SIGCONT)


async def test_killed_in_its_second_epoch_it_ends_with_the_same_weights(undisturbed, embedded_broker, tmp_path):
    """kill -9 in the middle of the second epoch: it is trained again, to the same weights, bit for bit."""
    async with training_site(tmp_path, embedded_broker.bootstrap) as (site, vault):
        edge = await site.start("run", "pi-a")
        await reach_mid_epoch(edge, vault, 1)
        await following(vault, "archive.served")
        edge.signal(signal.SIGKILL)
        assert await edge.ended() == -signal.SIGKILL
        assert not edge.seen("train.epoch", epoch=1)

        again = await train_to_the_end(site)

        assert (await again.wait_for("train.started")).items() >= {"epoch": 1, "step": STEPS, "resumed": True}.items()
        assert final_weights(site) == undisturbed


async def test_killed_behind_a_checkpoint_inside_an_epoch_it_goes_on_from_there(undisturbed, embedded_broker, tmp_path):
    """With a checkpoint each second it begins in the middle of the epoch, and ends with the same weights."""
    async with training_site(tmp_path, embedded_broker.bootstrap, checkpoint="1s") as (site, vault):
        edge = await site.start("run", "pi-a")
        await reach_mid_epoch(edge, vault, 0)
        saved = await edge.wait_for("checkpoint.saved")
        edge.signal(signal.SIGKILL)
        assert await edge.ended() == -signal.SIGKILL
        assert not edge.seen("train.epoch")

        again = await train_to_the_end(site)

        step = again.seen("train.started")[0]["step"]
        assert saved["generation"] <= step < STEPS
        assert again.seen("epoch.drawn")[0].items() >= {"epoch": 0, "first_sample": 64 * step}.items()
        assert final_weights(site) == undisturbed


async def test_stopped_in_the_middle_of_an_epoch_it_goes_on_from_the_very_step(undisturbed, embedded_broker, tmp_path):
    """SIGTERM while it trains: a checkpoint of that step, exit code 0, and the same weights in the end."""
    async with training_site(tmp_path, embedded_broker.bootstrap) as (site, vault):
        edge = await site.start("run", "pi-a")
        await reach_mid_epoch(edge, vault, 0)
        await following(vault, "archive.served")
        await stopped(edge)
        [saved] = edge.seen("checkpoint.saved")
        assert not edge.seen("train.epoch")

        again = await train_to_the_end(site)

        step = saved["generation"]
        assert again.seen("train.started")[0].items() >= {"epoch": 0, "step": step, "resumed": True}.items()
        assert again.seen("epoch.drawn")[0].items() >= {"epoch": 0, "first_sample": 64 * step}.items()
        assert final_weights(site) == undisturbed


async def test_an_archive_that_dies_and_comes_back_changes_nothing_but_the_time(undisturbed, embedded_broker, tmp_path):
    """The edge says that the archive is away and goes on by itself, to the same weights."""
    async with training_site(tmp_path, embedded_broker.bootstrap) as (site, vault):
        edge = await site.start("run", "pi-a")
        await following(vault, "archive.served", 2)
        vault.signal(signal.SIGKILL)
        killed = datetime.now(UTC)
        await degraded(edge, "archive", since=killed)

        await site.start("run", "vault")
        await edge.wait_for("health.recovered", part="archive")
        await edge.wait_for("train.finished")

        await stopped(edge)
        assert final_weights(site) == undisturbed
