"""Arrays that do not fit are refused before anything is written: C would trust them."""

import numpy as np
import pytest

from edged.adapters.kernels.kernel_layer import Chain
from edged.domain.nn.context import LayerContext
from edged.domain.nn.params import bias_name, initial_params, kernel_name
from edged.domain.nn.spec import Conv1d, Conv2d, Dense, DepthwiseConv2d, LayerSpec, MaxPool2d, Shape
from tests.support.kernels import required_kernels

MICRO_BATCH = 3
KINDS: dict[str, tuple[Shape, LayerSpec, MaxPool2d | None]] = {
    "dense": ((5,), Dense(9, "relu"), None),
    "pixels": ((4, 3, 5), Conv2d(9, (1, 1)), None),
    "convolution": ((6, 5, 3), Conv2d(9, (3, 2), (2, 1)), None),
    "convolution and pooling": ((6, 6, 3), Conv2d(9, (2, 2)), MaxPool2d((2, 2), (2, 2))),
    "Winograd's": ((6, 5, 8), Conv2d(9, (3, 3), activation="relu6"), None),
    "Winograd's along a series": ((9, 8), Conv1d(9, 3), None),
    "depthwise": ((6, 5, 9), DepthwiseConv2d((3, 3)), None),
}
MISFITS = {
    "of another type": lambda a: a.astype(np.float64),
    "of half the size": lambda a: a[..., : a.shape[-1] // 2].copy(),
    "of another shape": lambda a: a[None].copy(),
    "of swapped bytes": lambda a: a.astype(">f4"),
}


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    raw[...] = array
    return raw


UNWRITABLE = MISFITS | {
    "read-only": read_only,
    "not in one piece": lambda a: np.repeat(a, 2, -1)[..., ::2],
    "unaligned": unaligned,
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def case(kind):
    """A layer, its weights, zeroed gradients, inputs and the gradients of its outputs."""
    shape, spec, pool = KINDS[kind]
    layer = required_kernels().layer(spec, pool, LayerContext(0, shape, MICRO_BATCH, np.float32, input_gradient=True))
    assert isinstance(layer, Chain)
    params = initial_params(shape, [spec], 0)
    layer.begin(params)
    x = np.random.default_rng(0).random((MICRO_BATCH, *shape), np.float32)
    dy = np.ones_like(layer.forward(params, x))
    names = kernel_name(0, spec), bias_name(0, spec)
    return layer, params, {name: np.zeros_like(value) for name, value in params.items()}, x, dy, names


@pytest.mark.parametrize("misfit", MISFITS.values(), ids=MISFITS.keys())
@pytest.mark.parametrize("which", [0, 1], ids=["kernel", "bias"])
def test_weights_that_do_not_fit_are_refused(case, misfit, which):
    layer, params, _, _, _, names = case

    with pytest.raises(ValueError, match="float32"):
        layer.begin(params | {names[which]: misfit(params[names[which]])})


@pytest.mark.parametrize("misfit", MISFITS.values(), ids=MISFITS.keys())
def test_inputs_and_gradients_of_outputs_that_do_not_fit_are_refused(case, misfit):
    layer, params, grads, x, dy, _ = case

    with pytest.raises(ValueError, match="float32"):
        layer.backward(params, misfit(dy), grads)
    with pytest.raises(ValueError, match=r"float32|for a micro-batch"):
        layer.forward(params, misfit(x))
    assert not any(grad.any() for grad in grads.values())


def test_more_samples_than_a_micro_batch_are_refused(case):
    layer, params, _, x, _, _ = case

    with pytest.raises(ValueError, match="4 samples for a micro-batch of 3"):
        layer.forward(params, np.concatenate([x, x[:1]]))


def test_gradients_of_another_number_of_outputs_are_refused(case):
    layer, params, grads, _, dy, _ = case

    with pytest.raises(ValueError, match="float32"):
        layer.backward(params, dy[:2], grads)
    assert not any(grad.any() for grad in grads.values())


@pytest.mark.parametrize("misfit", UNWRITABLE.values(), ids=UNWRITABLE.keys())
@pytest.mark.parametrize("which", [0, 1], ids=["kernel", "bias"])
def test_gradients_that_cannot_be_written_are_refused_and_nothing_is_written(case, misfit, which):
    layer, params, grads, _, dy, names = case
    given = grads | {names[which]: misfit(grads[names[which]])}

    with pytest.raises(ValueError, match=r"float32|cannot be written"):
        layer.backward(params, dy, given)
    assert not any(grad.any() for grad in given.values())


@pytest.mark.parametrize("kind", ["Winograd's", "Winograd's along a series"], indirect=True)
@pytest.mark.parametrize("misfit", UNWRITABLE.values(), ids=UNWRITABLE.keys())
def test_gradients_that_are_written_at_the_end_are_looked_at_then(case, misfit):
    layer, params, grads, _, dy, (kernel, _) = case
    layer.backward(params, dy, grads)
    given = grads | {kernel: misfit(grads[kernel])}

    with pytest.raises(ValueError, match=r"float32|cannot be written"):
        layer.end(given)
    assert not given[kernel].any()


def test_weights_and_inputs_may_lie_anywhere(case):
    layer, params, _, x, _, _ = case
    expected = layer.forward(params, x).copy()

    for moved in (unaligned, read_only, UNWRITABLE["not in one piece"]):
        elsewhere = {name: moved(value) for name, value in params.items()}
        layer.begin(elsewhere)
        np.testing.assert_array_equal(layer.forward(elsewhere, moved(x)), expected)
