"""Several edges that train one model, in one process and in no time."""

import pytest

from tests.services.group_world import GroupWorld, bits

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize("num_members", [1, 2, 3])
async def test_all_members_end_with_the_same_bits(log_lines, num_members):
    world = GroupWorld(edges=("pi-a", "pi-b", "pi-c")[:num_members])
    trainers = [world.trainer(edge) for edge in world.edges]
    await world.finish(*trainers)
    assert len({tuple(bits(each.state.params).items()) for each in trainers}) == 1
    assert trainers[0].state.position.epoch == 2
