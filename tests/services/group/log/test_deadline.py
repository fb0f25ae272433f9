"""How long a step waits for missing gradients."""

from dataclasses import replace

import pytest

from edged.domain.group.state import State
from edged.services.group.log.deadline import (
    DEADLINE_FACTOR,
    EPOCH_DEADLINE_S,
    FIRST_DEADLINE_S,
    MIN_DEADLINE_S,
    Deadline,
)
from tests.support.histories import EDGES, started

FIRST_STEP = started(*EDGES, num_steps=9)
LATER_STEP = replace(FIRST_STEP, step=FIRST_STEP.step + 1)


def after(*step_times: float) -> Deadline:
    deadline = Deadline()
    for seconds in step_times:
        deadline.record(seconds)
    return deadline


@pytest.mark.parametrize("state", [FIRST_STEP, LATER_STEP])
def test_before_any_step_was_measured_the_first_deadline_holds(state: State):
    assert after().seconds(state) == FIRST_DEADLINE_S


def test_a_step_gets_a_multiple_of_the_median_step_time():
    assert after(10.0, 20.0, 1000.0).seconds(LATER_STEP) == DEADLINE_FACTOR * 20.0


def test_however_short_the_steps_are_there_is_a_minimum_and_a_longer_one_for_an_epochs_first_step():
    assert after(0.001).seconds(LATER_STEP) == MIN_DEADLINE_S
    assert after(0.001).seconds(FIRST_STEP) == EPOCH_DEADLINE_S


@pytest.mark.parametrize("state", [FIRST_STEP, LATER_STEP])
def test_a_nodes_own_minimum_holds_for_each_step(state: State):
    deadline = Deadline(min_s=60.0)
    deadline.record(0.001)
    assert deadline.seconds(state) == 60.0


def test_an_epochs_first_step_gets_no_less_than_a_slow_step():
    assert after(100.0).seconds(FIRST_STEP) == DEADLINE_FACTOR * 100.0


def test_old_step_times_are_forgotten():
    assert after(*[100.0] * 100, *[2.0] * 32).seconds(LATER_STEP) == DEADLINE_FACTOR * 2.0
