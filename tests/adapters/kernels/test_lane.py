"""What a lane's one call refuses before C, which would trust it."""

import numpy as np
import pytest

from edged.adapters.kernels import lane
from edged.adapters.kernels.lane import LaneStep
from edged.domain.nn.layers import make_layers
from edged.domain.nn.params import initial_params
from edged.domain.nn.spec import Conv2d, Dense, Flatten
from tests.support.kernels import required_kernels

SHAPE, LAYERS, SAMPLES = (6, 5, 3), (Conv2d(9, (3, 2)), Flatten(), Dense(4)), 7


@pytest.fixture
def step() -> LaneStep:
    backend = required_kernels()
    layers = make_layers(SHAPE, LAYERS, micro_batch=3, dtype=np.float32, backend=backend)
    for layer in layers:
        layer.begin(initial_params(SHAPE, LAYERS, 0))
    loss = backend.loss("cross_entropy", np.float32)
    assert loss
    step = backend.lane_step(layers, loss, 3)
    assert isinstance(step, LaneStep)
    return step


@pytest.fixture
def arrays():
    """Samples, classes, scales, losses and scores."""
    x = np.random.default_rng(0).random((SAMPLES, *SHAPE), np.float32)
    scale, losses, scores = np.ones((SAMPLES, 1), np.float32), *np.zeros((2, SAMPLES), np.float32)
    return [x, np.arange(SAMPLES) % 4, scale, losses, scores]


def zeros():
    return {name: np.zeros_like(value) for name, value in initial_params(SHAPE, LAYERS, 0).items()}


def test_samples_may_lie_anywhere(step, arrays):
    expected, got = zeros(), zeros()
    step(*arrays, expected)
    step(np.repeat(arrays[0], 2, -1)[..., ::2], *arrays[1:], got)
    assert all(np.array_equal(got[name], expected[name]) for name in got)
    assert all(value.any() for value in got.values())


@pytest.mark.parametrize("which", [0, 2, 3, 4], ids=["samples", "scales", "losses", "scores"])
@pytest.mark.parametrize(
    "misfit", [lambda a: a.astype(np.float64), lambda a: a[:-1]], ids=["of float64", "one too few"]
)
def test_arrays_that_do_not_fit_are_refused(step, arrays, which, misfit):
    arrays[which], grads = misfit(arrays[which]), zeros()
    with pytest.raises(ValueError, match=r"float32|7 outputs|6 outputs"):
        step(*arrays, grads)
    assert not any(value.any() for value in grads.values())


@pytest.mark.parametrize("label", [4, -1])
def test_a_target_that_is_no_class_is_refused(step, arrays, label):
    arrays[1][SAMPLES - 1], grads = label, zeros()
    with pytest.raises(IndexError, match="for a model of 4"):
        step(*arrays, grads)
    assert not any(value.any() for value in grads.values())


def test_gradients_that_do_not_fit_are_refused(step, arrays):
    grads = {name: value.astype(np.float64) for name, value in zeros().items()}
    with pytest.raises(ValueError, match="float32"):
        step(*arrays, grads)


def test_what_takes_minutes_is_computed_in_parts_that_are_seen_and_give_the_same_bits(step, arrays, monkeypatch):
    whole, parts = zeros(), zeros()
    step(*arrays, whole)  # the first call, whose first part is a micro-batch, as nothing is known
    correct, losses = step(*arrays, zeros()), arrays[3].copy()
    seen = []

    def slow_clock() -> float:
        seen.append(step.num_computed)
        return 100.0 * len(seen)

    monkeypatch.setattr(lane, "perf_counter", slow_clock)
    before = step.num_computed
    assert step(*arrays, zeros()) == correct  # at once, as it was fast
    assert step(*arrays, parts) == correct
    assert [number - before for number in dict.fromkeys(seen)] == [0, 7, 10, 13, 14]
    assert all(np.array_equal(parts[name], whole[name]) for name in whole)
    assert np.array_equal(arrays[3], losses)
