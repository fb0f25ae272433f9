"""Schedules at points where the answer is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.topology import Adam, Constant, Cosine, Lars, Schedule, Sgd, Step
from edged.domain.training.schedule import batch_factor, factor


@pytest.mark.parametrize(
    ("schedule", "progress", "expected"),
    [
        (Constant(), 0, 1),
        (Constant(), 7.5, 1),
        (Constant(warmup=2), 1, 0.5),
        (Constant(warmup=2), 2, 1),
        (Cosine(), 0, 1),
        (Cosine(), 5, 0.5),
        (Cosine(), 10, 0),
        (Cosine(floor=0.2), 5, 0.6),
        (Cosine(floor=0.2), 10, 0.2),
        (Cosine(warmup=2), 1, 0.5),
        (Cosine(warmup=2), 2, 1),
        (Cosine(warmup=2), 6, 0.5),
        (Step(every=3), 2.9, 1),
        (Step(every=3), 3, 0.1),
        (Step(every=3, factor=0.5), 6.5, 0.25),
        (Step(every=3, warmup=1), 0.5, 0.5),
    ],
    ids=str,
)
def test_known_points(schedule, progress, expected):
    assert factor(schedule, progress, epochs=10) == pytest.approx(expected, abs=1e-12)


SCHEDULES = [Constant(1), Cosine(), Cosine(2, 0.1), Cosine(20), Step(2, 0.5), Step(0.1, 0.1, 1)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@given(progress=st.floats(0, 1000), epochs=st.integers(1, 50))
def test_the_factor_is_never_outside_0_to_1(schedule: Schedule, progress, epochs):
    assert 0 <= factor(schedule, progress, epochs) <= 1


def test_the_first_step_of_a_warm_up_is_small_but_not_zero():
    assert 0 < factor(Constant(warmup=5), 0.0, 10) <= 0.01


def test_a_cosine_stays_at_its_floor_when_training_continues_beyond_its_end():
    assert factor(Cosine(floor=0.1), 30, 10) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("optimizer", "reference_batch", "expected"),
    [(Sgd(), 128, 4), (Lars(), 128, 4), (Adam(), 128, 2), (Sgd(), 1024, 0.5), (Sgd(), None, 1), (Adam(), None, 1)],
)
def test_the_rate_scales_with_the_batch_and_adams_with_its_square_root(optimizer, reference_batch, expected):
    assert batch_factor(optimizer, 512, reference_batch) == expected
