"""A group's steps against the same arithmetic done by hand."""

from dataclasses import replace

import numpy as np
import pytest

from edged.domain.group import step as group_step
from edged.domain.group.records import Begin
from edged.domain.group.state import Closed, Diverged, Member, State
from edged.domain.nn import param_vector
from edged.domain.nn.model import Model
from edged.domain.nn.spec import Dense
from edged.domain.topology import Adam, Constant, Exchange, Outer, Sgd, Training
from edged.domain.training.learner import Learner
from edged.domain.training.state import Tally

TRAINING = Training("climate", (Dense(2),), optimizer=Sgd(0.5, momentum=0.0), exchange=Exchange("all_reduce"))
BEGIN = Begin(3, {"pi-a": 1.0}, {"pi-a": 80}, 4, "0" * 64, "pi-a")
GROUP = State(step=14, end_step=16, begin=BEGIN, members={"pi-a": Member()})
"""Behind step 13, the second of epoch 3's four."""


def initial(training: Training):
    return Learner(training, Model((3,), training.model, loss=training.loss)).initial("0" * 64)


def closed(mean) -> Closed:
    vector = None if mean is None else np.full(8, mean, np.float32)
    if vector is not None:
        vector.setflags(write=False)
    return Closed(13, vector, (), ())


def test_the_mean_is_a_gradient_that_the_optimizer_steps_along():
    state = initial(TRAINING)
    before = param_vector.flatten(state.params)

    group_step.apply_step(TRAINING, state, GROUP, closed(2.0))

    np.testing.assert_array_equal(param_vector.flatten(state.params), before - np.float32(1.0))
    assert state.position.step == 14


def test_schedules_depend_on_the_fraction_of_the_epoch():
    training = replace(TRAINING, schedule=Constant(warmup=6.5))
    state = initial(training)
    before = param_vector.flatten(state.params)

    group_step.apply_step(training, state, GROUP, closed(2.0))

    assert group_step.progress(GROUP, 13) == 3.25
    np.testing.assert_allclose(param_vector.flatten(state.params), before - 0.5, rtol=1e-6)


def test_the_groups_gradient_is_clipped_by_its_global_norm_and_not_changed():
    training = replace(TRAINING, clip_norm=1.0)
    state, step = initial(training), closed(2.0)
    before = param_vector.flatten(state.params)

    group_step.apply_step(training, state, GROUP, step)

    assert np.linalg.norm(param_vector.flatten(state.params) - before) == pytest.approx(0.5)
    assert step.mean is not None
    np.testing.assert_array_equal(step.mean, np.full(8, 2.0))


def test_a_step_without_samples_counts_but_changes_no_weights():
    state = initial(replace(TRAINING, optimizer=Adam()))
    before = param_vector.digest(state.params)

    group_step.apply_step(TRAINING, state, GROUP, closed(None))

    assert param_vector.digest(state.params) == before
    assert state.position.step == 14


def test_the_outer_step_follows_the_mean_delta_of_rounds_with_nesterov_momentum():
    training = replace(TRAINING, exchange=Exchange("all_reduce", sync_every=8, outer=Outer(0.5, 0.8)))
    state = initial(training)
    before = param_vector.flatten(state.params)

    group_step.apply_step(training, state, GROUP, closed(1.0))
    group_step.apply_step(training, state, GROUP, closed(1.0))

    first = 0.5 * (1 + 0.8 * 1)
    second = 0.5 * (1 + 0.8 * (0.8 * 1 + 1))
    np.testing.assert_allclose(param_vector.flatten(state.params), before - np.float32(first + second), rtol=1e-5)
    assert not param_vector.flatten(state.slots["velocity"]).any()  # that of the members' own steps


def test_an_epoch_begins_at_the_first_sample_of_its_snapshot():
    state = initial(TRAINING)

    group_step.apply_begin(state, BEGIN)

    assert (state.position.epoch, state.position.sample, state.ends) == (3, 0, {"pi-a": 80})


def test_a_rollback_restores_the_state_before_the_epochs_first_mean_and_halves_the_rate():
    training = replace(TRAINING, optimizer=Sgd(0.5, momentum=0.9))
    state = initial(training)
    before = param_vector.digest(state.params)
    for mean in (None, 2.0, 2.0):
        group_step.apply_step(training, state, GROUP, closed(mean))

    for slowdowns in (1, 2):  # what it went back to is not changed by the steps since
        group_step.roll_back(state, Diverged(continues=True))
        assert param_vector.digest(state.params) == before
        assert not param_vector.flatten(state.slots["velocity"]).any()
        assert (state.slowdowns, state.position.step) == (slowdowns, 14)
        group_step.apply_step(training, state, GROUP, closed(2.0))
    assert param_vector.flatten(state.params)[0] == pytest.approx(
        param_vector.flatten(initial(training).params)[0] - 1.0 / 4
    )


def test_the_weights_that_an_epoch_begins_with_are_good_after_its_first_mean():
    state = initial(TRAINING)
    group_step.apply_step(TRAINING, state, GROUP, closed(2.0))
    following = State(step=17, end_step=20, begin=replace(BEGIN, epoch=4), members=GROUP.members)

    for mean, restored in ((None, 13), (1.0, 16)):
        group_step.apply_step(TRAINING, state, following, replace(closed(mean), step=16))
        assert state.fallback is not None
        assert state.fallback.step == restored


def test_a_rollback_before_the_first_step_keeps_the_weights():
    state = initial(TRAINING)
    before = param_vector.digest(state.params)

    group_step.roll_back(state, Diverged(continues=False))

    assert (param_vector.digest(state.params), state.slowdowns) == (before, 0)


@pytest.mark.parametrize(
    ("num_samples", "group", "is_useless"),
    [
        (0, GROUP, True),
        (1, GROUP, False),
        (0, replace(GROUP, is_abandoned=True), False),
        (0, replace(GROUP, diverged_steps=1), False),
    ],
    ids=["nothing", "a sample", "abandoned", "diverged"],
)
def test_an_epoch_is_useless_when_it_was_made_and_had_nothing_to_train_on(num_samples, group, is_useless):
    state = initial(TRAINING)
    state.tally = Tally(num_samples)

    assert group_step.is_useless(state, group) is is_useless
