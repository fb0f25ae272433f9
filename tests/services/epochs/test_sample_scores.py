"""Scores and weights reach the samples they belong to."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edged.adapters.memory.disk_tier import MemoryDiskTier
from edged.domain.archive.snapshot import BlockRef, Ids
from edged.domain.epochs import sampler_state
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.importance import Importance
from edged.domain.epochs.sampler_state import SamplerState
from edged.domain.epochs.scores import ScoreTable
from edged.domain.samples import codec
from edged.domain.topology import Sampling, Sgd
from edged.domain.training.learner import BatchResult
from edged.services.epochs.planner import SCORE_BYTES
from tests.services.training.test_trainer import finish, run_until
from tests.support.cached_world import cached, memory_for
from tests.support.training_world import (
    STREAM,
    TRAINING,
    CrashingModel,
    NoImages,
    make_pack,
)

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize("mode", ["importance", "shade", "icache"])
async def test_the_score_of_each_sample_is_that_of_its_own_data(world, mode):
    """With constant weights: left-out samples, hits and misses do not shift the scores of others."""
    world.training = replace(
        TRAINING, sampling=Sampling(mode), epochs=3, optimizer=Sgd(1e-30, momentum=0.0), checkpoint_s=0
    )
    world.log.blocks[BlockRef("_train.toy", 1)] = make_pack(7, 12, unlabelled=[0, 3])
    world.log.blocks[BlockRef("_train.toy", 2)] = make_pack(8, 12, codec="jpeg")
    world.log.missing = {(BlockRef("pi-a", 2), row) for row in range(4)}
    async with cached(world, MemoryDiskTier(), memory_for(20)):
        trainer = await finish(world)
    state = sampler_state.decode(world.store.sampler_states[3], score_bytes=SCORE_BYTES)
    table, snapshot = state.scores, state.snapshot
    num_checked = 0
    for sample_id in np.flatnonzero(table.visits(np.arange(snapshot.num_samples))).tolist():
        sample = world.log.sample(sample_id)
        x, y = np.zeros((1, *STREAM.shape), np.float32), np.array([STREAM.labels.index(sample.label or "")])
        codec.fill(x, [sample.payload], [sample.codec], STREAM, NoImages().decode)
        gradient = world.model().gradient(trainer.state.params, x, y)
        expected = gradient.scores if mode == "importance" else gradient.losses
        assert table.of(np.array([sample_id]))[0] == pytest.approx(float(expected[0]), rel=2e-3, abs=1e-3)
        num_checked += 1
    assert num_checked > 60


class WeighedModel(CrashingModel):
    """Remembers what each step's losses counted."""

    def gradient(self, *args: Any, **options: Any) -> Any:
        self.weights = [*getattr(self, "weights", []), np.array(args[3])]
        return super().gradient(*args, **options)


async def test_the_plans_weights_reach_the_learner(world, monkeypatch):
    world.training = replace(TRAINING, sampling=Sampling("importance"), epochs=1)
    async with cached(world, None):
        await finish(world)
    snapshot = world.log.snapshot()
    scores, every = ScoreTable(snapshot, SCORE_BYTES), np.arange(snapshot.num_samples)
    scores.update(every, np.random.default_rng(0).gamma(1.0, size=len(every)).astype(np.float32))
    opened = EpochStart(np.zeros(0, np.int64), is_gate_open=True)
    world.store.sampler_states[1] = sampler_state.encode(SamplerState(1, snapshot, opened, scores))
    world.training = replace(world.training, epochs=2)
    model = WeighedModel(STREAM.shape, TRAINING.model, micro_batch=4)
    learnt: list[Ids] = []
    async with cached(world, None):
        trainer = world.trainer(model=model)
        kept = trainer._scores
        assert kept is not None
        learn = kept.learn

        def remember(ids: Ids, result: BatchResult) -> None:
            learnt.append(ids.copy())
            learn(ids, result)

        monkeypatch.setattr(kept, "learn", remember)
        await run_until(trainer, lambda: world.num_finished == 2)
    ids, weights = np.concatenate(learnt), np.concatenate(model.weights)
    rule = Importance(scores)
    np.testing.assert_allclose(weights, rule.weights(ids, np.zeros(len(ids), np.bool_)), rtol=1e-5)
    assert weights.max() > 1.5 * weights.min()
    line = world.events("cache.epoch")[-1]
    assert line["effective_samples"] < 0.95 * line["reads"]
