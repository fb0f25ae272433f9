"""The compiled loss is the reference's, also where numbers are extreme or none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.adapters.kernels.backend import compiled
from edged.domain.nn.loss import LossStep, loss_step

STEP = st.sampled_from([0.01, 1.0, 30.0, 1000.0])


@pytest.fixture(scope="module")
def step() -> LossStep:
    step = compiled().loss("cross_entropy", np.float32)
    assert step is not None
    return step


def run(step: LossStep, outputs, targets, scale):
    losses, scores = np.empty(len(outputs), outputs.dtype), np.empty(len(outputs), outputs.dtype)
    gradient, correct = step(outputs, targets, scale.astype(outputs.dtype), losses, scores)
    return gradient, losses, scores, correct


@given(st.integers(1, 9), st.integers(1, 70), STEP, st.integers(0, 2**32 - 1))
def test_losses_scores_and_gradients_are_the_references(step, n, classes, size, seed):
    rng = np.random.default_rng(seed)
    outputs = (rng.standard_normal((n, classes)) * size).astype(np.float32)
    targets, scale = rng.integers(0, classes, n), rng.random((n, 1)).astype(np.float32)

    gradient, losses, scores, correct = run(step, outputs, targets, scale)
    exact = run(loss_step("cross_entropy"), outputs.astype(np.float64), targets, scale.astype(np.float64))

    np.testing.assert_allclose(gradient, exact[0], rtol=3e-6, atol=3e-7)
    np.testing.assert_allclose(losses, exact[1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scores, exact[2], rtol=3e-6, atol=1e-6)
    assert correct == exact[3]


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf], ids=["nan", "nan with a sign", "inf"])
def test_what_is_not_finite_makes_the_loss_so(step, value):
    outputs = np.array([[0, value, 1], [0, 1, 2]], np.float32)
    _, losses, _, _ = run(step, outputs, np.array([0, 1]), np.ones((2, 1)))
    assert np.isfinite(losses).tolist() == [False, True]


@given(st.integers(1, (1 << 23) - 1), st.sampled_from([0, 1 << 31]), st.integers(0, 2))
def test_whatever_the_bits_of_a_nan_the_loss_is_none(step, fraction, sign, place):
    """Also of a class that is not the target."""
    outputs = np.zeros((1, 3), np.float32)
    outputs.view(np.uint32)[0, place] = sign | 0x7F800000 | fraction
    gradient, losses, scores, _ = run(step, outputs, np.array([0]), np.ones((1, 1)))
    assert not np.isfinite(losses).any()
    assert not np.isfinite(scores).any()
    assert not np.isfinite(gradient).any()


@pytest.mark.parametrize("target", [-1, 3])
def test_a_target_that_is_no_class_is_refused(step, target):
    with pytest.raises(IndexError, match="for a model of 3"):
        run(step, np.zeros((2, 3), np.float32), np.array([0, target]), np.ones((2, 1)))


def test_other_arrays_are_refused(step):
    outputs, targets = np.zeros((2, 3), np.float32), np.array([0, 1])
    with pytest.raises(ValueError, match="float32"):
        run(step, outputs.astype(np.float64), targets, np.ones((2, 1)))
    with pytest.raises(ValueError, match="2 outputs for 2 targets"):
        run(step, outputs, np.empty((2, 0), np.int64), np.ones((2, 1)))
    with pytest.raises(ValueError, match="2 outputs for 3 targets"):
        run(step, outputs, np.array([0, 1, 2]), np.ones((2, 1)))
