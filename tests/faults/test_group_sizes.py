"""The number of edges does not change what is learnt: real processes, with the same seed and global batch."""

from pathlib import Path

import numpy as np
import pytest

from edged.domain.nn import param_vector
from edged.domain.training.state import TrainState
from tests.support.real_group import IMAGES, digest, newest_checkpoint
from tests.support.site import Site, running, stopped

EPOCHS = 2
NOBODY_IS_LATE = {"first_deadline_s": 300.0, "min_deadline_s": 300.0}
"""However slow the machine is: a step that is closed without a contribution gives other weights."""
TOLERANCE = 1e-4
"""Of weights of the order of 0.1. Sums in another order differ in their last bits."""


async def trained(folder: Path, bootstrap: str, *edges: str) -> TrainState:
    """The state that these edges end with: the same on all, bit for bit, after every epoch."""
    settings = {"site": f"{folder.name}-{len(edges)}", "edges": edges, "epochs": EPOCHS, "timing": NOBODY_IS_LATE}
    async with running(
        Site(folder / f"{len(edges)}", bootstrap, more="exchange: {mode: all_reduce}", **settings)
    ) as site:
        await site.import_fashion(IMAGES, test_limit=100)
        await site.start("run", "vault")
        children = [await site.start("run", name) for name in edges]
        for child in children:
            await child.wait_for("train.finished")
        for epoch in range(EPOCHS):
            lines = [child.seen("exchange.epoch", epoch=epoch)[0] for child in children]
            assert [line["members"] for line in lines] == [list(edges)] * len(edges)
            assert len({line["weights"] for line in lines}) == 1
            assert {line["missed"] for line in lines} == {0}
        for child in children:
            await stopped(child)
        states = [newest_checkpoint(site, name) for name in edges]
        assert len({digest(state) for state in states}) == 1
        await site.edged("replay", str(site.topology), "--prove", str(site.state(edges[0])))
    return states[0]


async def test_one_two_and_four_edges_end_with_the_same_weights(embedded_broker, tmp_path):
    alone = await trained(tmp_path, embedded_broker.bootstrap, "pi-a")
    for edges in (("pi-a", "pi-b"), ("pi-a", "pi-b", "pi-c", "pi-d")):
        together = await trained(tmp_path, embedded_broker.bootstrap, *edges)

        assert together.position.step == alone.position.step == EPOCHS * -(-IMAGES // 64)
        assert param_vector.digest(together.params) != param_vector.digest(
            alone.params
        )  # otherwise one of them trained alone
        np.testing.assert_allclose(
            param_vector.flatten(together.params), param_vector.flatten(alone.params), rtol=0, atol=TOLERANCE
        )
        assert together.history[-1].test_accuracy == pytest.approx(alone.history[-1].test_accuracy, abs=0.011)
