"""What a member contributes to a step, and what it keeps."""

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
from edged.services.group.contribution import ContributionMaker

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
    return param_vector.flatten(learner.gradient(state, of.x, of.y, of.ids, of.weights).grads)


def test_a_contribution_is_the_mean_gradient_and_what_the_samples_came_to():
    rounds, learner, state = make()
    of = batch(5)
    made = rounds.gradient(state, of)
    found = learner.gradient(state, of.x, of.y, of.ids, of.weights)
    np.testing.assert_array_equal(compression.decompress(made.blob, N), param_vector.flatten(found.grads))
    assert (made.step, made.count, made.num_correct) == (0, 5, found.num_correct)
    assert made.loss == pytest.approx(float(found.losses.sum()))


def test_of_no_samples_there_is_nothing_to_say():
    rounds, _, state = make()
    assert rounds.gradient(state, batch(0)).count == 0


def test_what_came_too_late_is_added_to_the_next_as_a_sum_over_samples():
    rounds, learner, state = make()
    late, next_one = batch(6, 1), batch(2, 2)
    rounds.acknowledge(rounds.gradient(state, late), is_counted=False)
    sent = compression.decompress(rounds.gradient(state, next_one).blob, N)
    expected = (6 * gradient(learner, state, late) + 2 * gradient(learner, state, next_one)) / 2
    np.testing.assert_allclose(sent, expected, rtol=1e-5, atol=1e-6)


def test_what_comes_too_late_again_and_again_does_not_pile_up():
    rounds, learner, state = make()
    first, next_one = batch(4, 1), batch(4, 2)
    rounds.acknowledge(rounds.gradient(state, first), is_counted=False)
    for _ in range(5):
        rounds.acknowledge(rounds.gradient(state, first), is_counted=False)
    sent = compression.decompress(rounds.gradient(state, next_one).blob, N)
    once = gradient(learner, state, first) + gradient(learner, state, next_one)
    assert np.abs(sent).max() <= 2 * np.abs(once).max()


def test_what_compression_leaves_out_comes_later():
    training = replace(TRAINING, exchange=Exchange("all_reduce", compression="top_k", top_k=0.2))
    rounds, learner, state = make(training)
    of = batch(4)
    sent = np.zeros(N, np.float32)
    for _ in range(40):
        made = rounds.gradient(state, of)
        rounds.acknowledge(made, is_counted=True)
        sent += compression.decompress(made.blob, N)
    exact = gradient(learner, state, of)
    np.testing.assert_allclose(sent / 40, exact, atol=0.15 * np.abs(exact).max())


def test_numbers_that_are_not_finite_are_no_contribution_and_leave_nothing_behind():
    rounds, learner, state = make()
    bad = batch(4)
    bad.x[0, 0] = np.inf
    with pytest.raises(DivergedError), np.errstate(all="ignore"):
        rounds.gradient(state, bad)
    of = batch(4)
    np.testing.assert_array_equal(
        compression.decompress(rounds.gradient(state, of).blob, N), gradient(learner, state, of)
    )


def test_a_round_is_how_far_the_members_own_steps_came_and_leaves_the_weights_alone():
    training = replace(TRAINING, exchange=Exchange("all_reduce", sync_every=3))
    rounds, learner, state = make(training)
    before = param_vector.digest(state.params)
    rounds.begin(state)
    for seed in range(3):
        rounds.local_step(batch(4, seed), progress=0.0)
    made = rounds.delta(state)
    assert param_vector.digest(state.params) == before
    assert (made.count, made.step) == (12, 0)

    alone = learner.initial("0" * 64)
    for seed in range(3):
        of = batch(4, seed)
        learner.step(alone, of.x, of.y, of.ids, of.weights, progress=0.0)
    delta = param_vector.flatten(state.params) - param_vector.flatten(alone.params)
    np.testing.assert_allclose(compression.decompress(made.blob, N), delta, rtol=1e-6, atol=1e-7)
    assert made.slots is not None
    np.testing.assert_array_equal(
        param_vector.flatten(made.slots["velocity"]), param_vector.flatten(alone.slots["velocity"])
    )
