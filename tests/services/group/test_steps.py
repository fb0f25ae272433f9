"""A member's steps: what is made ready while one is computed."""

import pytest

from edged.services.batches.batcher import Batcher
from tests.support.group_world import GroupWorld

pytestmark = pytest.mark.looptime


async def test_the_next_part_is_on_its_way_through_decoding_before_the_present_ones_gradient_is_sent(
    log_lines, monkeypatch
):
    world, hand_out = GroupWorld(("pi-a",)), Batcher.hand_out
    decoded: list[int] = []
    decoded_when_sent = []

    def noting(batcher, samples):
        hand_out(batcher, samples)
        decoded.extend(sample.id for sample in samples)

    async def note(_part):
        decoded_when_sent.append(len(decoded))

    monkeypatch.setattr(Batcher, "hand_out", noting)
    world.log.before_part = note
    await world.finish(world.trainer("pi-a"))
    assert decoded_when_sent[:3] == [16, 24, 32]
