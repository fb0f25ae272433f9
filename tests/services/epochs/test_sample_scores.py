"""Scores and weights reach the samples they belong to."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edged.adapters.memory.disk_tier import MemoryDiskTier
from edged.domain.archive.snapshot import BlockRef, Ids
from edged.domain.epochs import sampler_state
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.importance import Gate, Importance
from edged.domain.epochs.sampler_state import SamplerState
from edged.domain.epochs.scores import ScoreTable
from edged.domain.samples import codec
from edged.domain.topology import Sampling, SamplingMode, Sgd
from edged.domain.training.learner import BatchResult
from edged.services.epochs.planner import SCORE_BYTES
from edged.services.epochs.sample_scores import SampleScores
from tests.services.training.test_trainer import finish, run_until
from tests.support.cached_world import cached, memory_for
from tests.support.training_world import (
    STREAM,
    TRAINING,
    CrashingModel,
    NoImages,
    World,
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
    """Records the weights of each step's losses."""

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


def learnt_scores(world: World, mode: SamplingMode, num_visited: int = 5) -> tuple[SampleScores, Any]:
    """Scores of an epoch in which the first samples were trained, and that epoch's plan."""
    snapshot = world.log.snapshot()
    scores = SampleScores(mode)
    scores.begin(ScoreTable(snapshot, SCORE_BYTES), Gate())
    losses, gradients = np.arange(num_visited, dtype=np.float32), np.full(num_visited, 2, np.float32)
    scores.learn(np.arange(num_visited), BatchResult(losses, gradients))
    return scores, type("Plan", (), {"snapshot": snapshot, "epoch": 3})


@pytest.mark.parametrize(("mode", "expected"), [("importance", [2.0] * 5), ("shade", [0.0, 1.0, 2.0, 3.0, 4.0])])
def test_importance_learns_the_scores_of_gradients_and_other_modes_losses(world, mode, expected):
    scores, _ = learnt_scores(world, mode)
    assert scores.table.of(np.arange(5)).tolist() == expected


def test_scores_and_gate_are_loaded_as_they_were_encoded(world):
    scores, plan = learnt_scores(world, "importance")
    blob = scores.encode()
    assert blob is not None
    restored = SampleScores("importance")
    assert restored.encode() is None
    restored.begin(ScoreTable(plan.snapshot, SCORE_BYTES), Gate())
    restored.load(plan, blob)
    assert restored.encode() == blob
    assert restored.gate == scores.gate


@pytest.mark.parametrize("blob", [b"torn", b""])
def test_a_blob_that_cannot_be_used_changes_nothing(world, blob):
    scores, plan = learnt_scores(world, "icache")
    before = scores.encode()
    scores.load(plan, blob)
    assert scores.encode() == before
    assert [line["epoch"] for line in world.events("epoch.memo_skipped")] == ([3] if blob else [])
