"""What a member contributes to a step, and what it keeps for the next."""

from dataclasses import replace

import numpy as np
import pytest

from edged.domain.group import compression
from edged.domain.nn import param_vector
from edged.domain.nn.model import Model
from edged.domain.nn.spec import Dense
from edged.domain.topology import Exchange, Sgd, Training
from edged.domain.training.learner import DivergedError, Learner
from edged.domain.training.state import TrainState
from edged.services.batches.batcher import MiniBatch
from edged.services.group.contribution import ContributionMaker, PendingGradient

TRAINING = Training("climate", (Dense(2),), optimizer=Sgd(0.5), exchange=Exchange("all_reduce"))
N = 8


def make(training: Training = TRAINING) -> tuple[ContributionMaker, Learner, TrainState]:
    learner = Learner(training, Model((3,), training.model))
    return ContributionMaker(training, learner, N, map), learner, learner.initial("0" * 64)


def batch(n: int, seed: int = 0) -> MiniBatch:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3)).astype(np.float32)
    return MiniBatch(x, rng.integers(0, 2, n), np.arange(n), np.ones(n, np.float32))


def gradient(learner: Learner, state: TrainState, of: MiniBatch) -> param_vector.Vector:
    return param_vector.flatten(learner.gradient(state, of.x, of.y, of.weights).grads)


def test_a_contribution_is_the_mean_gradient_with_its_loss_and_hits():
    contributions, learner, state = make()
    of = batch(5)
    pending = contributions.gradient(state, of)
    computed = learner.gradient(state, of.x, of.y, of.weights)
    np.testing.assert_array_equal(compression.decompress(pending.blob, N), param_vector.flatten(computed.grads))
    assert (pending.step, pending.count, pending.num_correct) == (0, 5, computed.num_correct)
    assert pending.loss == pytest.approx(float(computed.losses.sum()))


def test_without_samples_a_contribution_is_empty():
    contributions, _, state = make()
    assert contributions.gradient(state, batch(0)).count == 0


def test_a_late_gradient_is_added_to_the_next_as_a_sum_over_samples():
    contributions, learner, state = make()
    late, next_one = batch(6, 1), batch(2, 2)
    contributions.acknowledge(contributions.gradient(state, late), is_counted=False)
    sent = compression.decompress(contributions.gradient(state, next_one).blob, N)
    expected = (6 * gradient(learner, state, late) + 2 * gradient(learner, state, next_one)) / 2
    np.testing.assert_allclose(sent, expected, rtol=1e-5, atol=1e-6)


def test_gradients_that_are_late_again_and_again_do_not_pile_up():
    contributions, learner, state = make()
    first, next_one = batch(4, 1), batch(4, 2)
    contributions.acknowledge(contributions.gradient(state, first), is_counted=False)
    for _ in range(5):
        contributions.acknowledge(contributions.gradient(state, first), is_counted=False)
    sent = compression.decompress(contributions.gradient(state, next_one).blob, N)
    once = gradient(learner, state, first) + gradient(learner, state, next_one)
    assert np.abs(sent).max() <= 2 * np.abs(once).max()


def test_what_compression_leaves_out_is_sent_later():
    training = replace(TRAINING, exchange=Exchange("all_reduce", compression="top_k", top_k=0.2))
    contributions, learner, state = make(training)
    of = batch(4)
    sent = np.zeros(N, np.float32)
    for _ in range(40):
        pending = contributions.gradient(state, of)
        contributions.acknowledge(pending, is_counted=True)
        sent += compression.decompress(pending.blob, N)
    exact = gradient(learner, state, of)
    np.testing.assert_allclose(sent / 40, exact, atol=0.15 * np.abs(exact).max())


def test_a_gradient_that_is_not_finite_is_no_contribution_and_leaves_no_residual():
    contributions, learner, state = make()
    bad = batch(4)
    bad.x[:, 0] = np.inf
    with pytest.raises(DivergedError), np.errstate(all="ignore"):
        contributions.gradient(state, bad)
    of = batch(4)
    np.testing.assert_array_equal(
        compression.decompress(contributions.gradient(state, of).blob, N), gradient(learner, state, of)
    )


@pytest.mark.parametrize("sync_every", [1, 2])
def test_a_sample_whose_loss_is_not_finite_is_left_out_of_the_count_and_the_gradient(sync_every):
    contributions, _, state = make(replace(TRAINING, exchange=Exchange("all_reduce", sync_every=sync_every)))
    bad = batch(4)
    bad.x[1, 0] = np.nan

    contributions.begin(state)
    if sync_every == 1:
        pending = contributions.gradient(state, bad)
    else:
        contributions.local_step(bad, 0.0)
        contributions.local_step(batch(4), 0.5)
        pending = contributions.delta(state)

    assert pending.count == 4 * sync_every - 1
    assert np.isfinite(pending.loss)
    assert np.isfinite(compression.decompress(pending.blob, N)).all()
    assert contributions.take_left_out() == [int(bad.ids[1])]
    assert contributions.take_left_out() == []


def test_a_round_contributes_the_delta_of_its_local_steps_and_leaves_the_weights_unchanged():
    training = replace(TRAINING, exchange=Exchange("all_reduce", sync_every=3))
    contributions, learner, state = make(training)
    before = param_vector.digest(state.params)
    contributions.begin(state)
    for seed in range(3):
        contributions.local_step(batch(4, seed), progress=0.0)
    pending = contributions.delta(state)
    assert param_vector.digest(state.params) == before
    assert (pending.count, pending.step) == (12, 0)

    alone = learner.initial("0" * 64)
    for seed in range(3):
        of = batch(4, seed)
        learner.step(alone, of.x, of.y, of.weights, progress=0.0)
    delta = param_vector.flatten(state.params) - param_vector.flatten(alone.params)
    np.testing.assert_allclose(compression.decompress(pending.blob, N), delta, rtol=1e-6, atol=1e-7)
    assert pending.slots is not None
    np.testing.assert_array_equal(
        param_vector.flatten(pending.slots["velocity"]), param_vector.flatten(alone.slots["velocity"])
    )


@pytest.mark.parametrize(("blob", "count", "chunks"), [(b"x" * 700_000, 4, 2), (b"x", 4, 1), (b"", 0, 1)])
def test_a_contribution_is_sent_in_parts_that_make_its_blob_again(blob, count, chunks):
    pending = PendingGradient(7, blob, count, 0.5 * count, count // 2, is_diverged=not count)
    parts = pending.parts("ash", 10.0)
    assert [(part.part, part.parts) for part in parts] == [(i, chunks) for i in range(chunks)]
    assert b"".join(part.chunk for part in parts) == blob
    assert {(part.edge, part.step, part.count, part.num_correct, part.is_diverged) for part in parts} == {
        ("ash", 7, count, count // 2, not count)
    }
    assert len({part.attempt for part in parts}) == 1
    assert parts[0].attempt != pending.parts("ash", 10.0)[0].attempt
