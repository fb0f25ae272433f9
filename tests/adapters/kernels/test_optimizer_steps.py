"""The compiled optimizers have the reference's bits: weights and slots, whatever the numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edged.domain.nn.optimizer_steps import NUMPY_STEPS
from edged.domain.topology import Adam, Lars, Sgd
from edged.domain.training import optim
from tests.support.kernels import required_kernels
from tests.support.properties import examples

optimizers = st.one_of(
    st.builds(Sgd, momentum=st.sampled_from([0.0, 0.5, 0.9]), nesterov=st.booleans()),
    st.builds(Lars, trust=st.sampled_from([0.001, 1.0])),
    st.builds(Adam, epsilon=st.sampled_from([1e-8, 0.1])),
)
tiny = float(np.finfo(np.float32).tiny)
numbers = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, tiny, -tiny, tiny / 4, 2.0**-100, 2.0**66]),
)
shapes = st.one_of(st.tuples(st.integers(1, 40)), st.tuples(st.integers(1, 5), st.integers(1, 9)))


@given(optimizers, st.data(), st.sampled_from([0.0, 1e-3]), st.sampled_from([0.1, 1.0]), st.integers(0, 1000))
@examples(100)
def test_steps_have_the_bits_of_the_reference(optimizer, data, weight_decay, learning_rate, step):
    shape = data.draw(shapes)
    drawn = arrays(np.float32, shape, elements=numbers)
    param, *grads = data.draw(st.tuples(drawn, drawn, drawn))
    bits = []
    for steps in (NUMPY_STEPS, required_kernels().steps):
        params = {"w": param.copy()}
        slots = optim.initial_slots(optimizer, params)
        with np.errstate(all="ignore"):
            for i, grad in enumerate(grads):
                optim.update(
                    optimizer, params, slots, {"w": grad}, learning_rate=learning_rate, step=step + i,
                    weight_decay=weight_decay, steps=steps,
                )  # fmt: skip
        bits.append([params["w"], *(slot["w"] for slot in slots.values())])
    for expected, got in zip(*bits, strict=True):
        is_number = ~np.isnan(expected)
        assert np.array_equal(is_number, ~np.isnan(got))
        assert np.array_equal(expected[is_number].view(np.uint32), got[is_number].view(np.uint32))


@pytest.mark.parametrize("moved", [
    lambda a: a.astype(np.float64), lambda a: np.repeat(a, 2, -1)[:, ::2], np.asfortranarray,
], ids=["float64", "not in one piece", "by column"])  # fmt: skip
@pytest.mark.parametrize("optimizer", [Sgd(), Adam()], ids=["sgd", "adam"])
def test_arrays_that_are_not_for_c_are_computed_all_the_same(moved, optimizer):
    rng = np.random.default_rng(0)
    param, grad = rng.random((2, 5, 7), np.float32)
    results = []
    for steps in (NUMPY_STEPS, required_kernels().steps):
        params = {"w": moved(param)}
        slots = {slot: {"w": moved(np.zeros_like(param))} for slot in optim.initial_slots(optimizer, params)}
        optim.update(optimizer, params, slots, {"w": moved(grad)}, learning_rate=0.1, step=0, steps=steps)
        results.append(params["w"])
    assert np.array_equal(*results)
    assert not np.array_equal(results[0], moved(param))
