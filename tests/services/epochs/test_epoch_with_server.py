"""Both halves of an epoch's way together: the edge's and the archive's."""

import asyncio
from contextlib import aclosing

import pytest

from edged.adapters.memory.archive import MemoryArchive
from edged.services.archive.epoch_server import EpochServer
from tests.support.training_world import EPOCHS, REQUESTS, AnsweringLog, World, make_pack, mini_batches

pytestmark = pytest.mark.looptime


async def test_an_epoch_comes_whole_in_order_and_again_for_an_old_snapshot(log_lines):
    world, archive = World(AnsweringLog({})), MemoryArchive()
    world.log.is_silent = True  # the real server answers
    archive.append("toy", "pi-a", [(offset, make_pack(offset, 20)) for offset in range(6)])
    archive.append("toy", "_train.toy", [(offset, make_pack(10 + offset, 20)) for offset in range(6)])
    server = EpochServer(
        world.log,
        archive,
        world.health,
        streams=["toy"],
        edges=["pi-a"],
        requests_topic=REQUESTS,
        epochs_topic=lambda _: EPOCHS,
        group="site.epoch_server.vault",
    )
    serving = asyncio.create_task(server.run())

    async def read(first: int = 0, ends: dict[str, int] | None = None) -> tuple[str, dict[str, int], list[int]]:
        epochs = world.epochs()
        async with epochs.open():
            plan = await epochs.draw(0, ends)
            async with aclosing(mini_batches(epochs, plan, first)) as batches:
                ids = [i async for batch, _ in batches for i in batch.ids.tolist()]
        return plan.digest, dict(plan.snapshot.ends), ids

    digest, ends, ids = await read()
    archive.append("toy", "pi-a", [(6, make_pack(6, 20))])
    archive.append("toy", "pi-b", [(0, make_pack(7, 20))])
    again, _, rest = await read(24, ends)
    grown, _, more = await read()
    assert again == digest != grown
    assert rest == ids[24:]
    assert len(ids) == len(set(ids)) < len(more)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
