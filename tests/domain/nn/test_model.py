"""The model as a whole: a mini-batch's gradient, and that it is reproducible bit by bit."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edged.domain.nn.loss import cross_entropy, softmax
from edged.domain.nn.model import Model
from edged.domain.nn.spec import Conv2d, Dense, Flatten, MaxPool2d, Relu, ShapeError
from edged.domain.topology import Sgd
from edged.domain.training.optim import initial_slots, update

SHAPE = (12, 12, 1)
LAYERS = (  # the second convolution is computed by Winograd
    Conv2d(8, (3, 3), activation="relu"),
    MaxPool2d((2, 2), (2, 2)),
    Conv2d(9, (3, 3), padding="same", activation="relu"),
    MaxPool2d((2, 2), (2, 2)),
    Flatten(),
    Dense(3),
)


def batch(n: int, dtype=np.float32):
    rng = np.random.default_rng(n)
    return rng.random((n, *SHAPE)).astype(dtype), rng.integers(0, 3, n)


def flat(grads):
    return np.concatenate([grad.ravel() for grad in grads.values()])


def test_weights_have_the_published_names_and_shapes():
    params = Model(SHAPE, LAYERS).initial(0)
    assert {name: value.shape for name, value in params.items()} == {
        "0.conv2d.kernel": (3, 3, 1, 8), "0.conv2d.bias": (8,), "2.conv2d.kernel": (3, 3, 8, 9),
        "2.conv2d.bias": (9,), "5.dense.kernel": (36, 3), "5.dense.bias": (3,),
    }  # fmt: skip
    assert all(value.dtype == np.float32 for value in params.values())
    assert Model(SHAPE, LAYERS).num_parameters == sum(value.size for value in params.values())


def test_initial_weights_depend_only_on_the_seed():
    first, again, other = (flat(Model(SHAPE, LAYERS).initial(seed)) for seed in (7, 7, 8))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_initial_weights_have_the_variance_that_their_activation_needs():
    params = Model((100,), (Dense(400, "relu"), Dense(400), Relu(), Dense(400))).initial(0)
    he, he_by_layer, glorot = (params[f"{i}.dense.kernel"].std() for i in (0, 1, 3))
    assert he == pytest.approx(np.sqrt(2 / 100), rel=0.05)
    assert he_by_layer == pytest.approx(np.sqrt(2 / 400), rel=0.05)
    assert glorot == pytest.approx(np.sqrt(2 / 800), rel=0.05)


@pytest.mark.parametrize("n", [1, 3, 32, 45])
@pytest.mark.parametrize(("micro_batch", "lanes"), [(1, 1), (5, 1), (64, 1), (4, 2), (32, 3)])
def test_gradient_does_not_depend_on_the_division_of_the_mini_batch(n, micro_batch, lanes):
    whole, divided = (
        Model(SHAPE, LAYERS, micro_batch=mb, lanes=k, dtype=np.float64) for mb, k in ((n, 1), (micro_batch, lanes))
    )
    params, (x, y) = whole.initial(0), batch(n, np.float64)
    expected, got = whole.gradient(params, x, y), divided.gradient(params, x, y)
    np.testing.assert_allclose(flat(got.grads), flat(expected.grads), atol=1e-12)
    np.testing.assert_allclose(got.losses, expected.losses, atol=1e-12)
    assert got.num_correct == expected.num_correct == (whole.logits(params, x).argmax(axis=1) == y).sum()


def test_float32_gradient_agrees_with_float64():
    single, double = Model(SHAPE, LAYERS), Model(SHAPE, LAYERS, dtype=np.float64)
    params, (x, y) = single.initial(0), batch(40)
    got = single.gradient(params, x, y)
    expected = double.gradient({name: value.astype(np.float64) for name, value in params.items()}, x.astype(float), y)
    assert got.losses.dtype == np.float32
    assert flat(got.grads).dtype == np.float32
    np.testing.assert_allclose(flat(got.grads), flat(expected.grads), atol=1e-5)


def test_threads_give_the_same_bits_as_lanes_run_sequentially():
    params, (x, y) = Model(SHAPE, LAYERS).initial(0), batch(50)
    in_turn = flat(Model(SHAPE, LAYERS, micro_batch=8, lanes=2).gradient(params, x, y).grads).tobytes()
    model = Model(SHAPE, LAYERS, micro_batch=8, lanes=2)
    with ThreadPoolExecutor(2) as executor:
        for _ in range(10):
            assert flat(model.gradient(params, x, y, map=executor.map).grads).tobytes() == in_turn


def test_lanes_share_the_samples_that_are_tested():
    params, (x, _) = Model(SHAPE, LAYERS).initial(0), batch(7)
    model, lanes = Model(SHAPE, LAYERS, micro_batch=2, lanes=3), []

    def noted(function, arguments):
        lanes.extend(arguments := list(arguments))
        return map(function, arguments)

    np.testing.assert_allclose(model.logits(params, x, map=noted), Model(SHAPE, LAYERS).logits(params, x), rtol=1e-5)
    assert lanes == [0, 1, 2]
    assert model.num_computed == 7


def test_training_again_gives_the_same_bits():
    def train():
        model = Model(SHAPE, LAYERS, micro_batch=7, lanes=2)
        params = model.initial(1)
        slots = initial_slots(Sgd(), params)
        for step, n in enumerate((20, 33, 1)):
            update(Sgd(), params, slots, model.gradient(params, *batch(n)).grads, learning_rate=0.1, step=step)
        return flat(params).tobytes()

    assert train() == train()


def test_sample_weights_scale_their_share_of_the_mean():
    """Weight 2 on one sample and 0 on another is the same as counting the one twice; losses stay unweighted."""
    model = Model(SHAPE, LAYERS, dtype=np.float64)
    params, (x, y) = model.initial(0), batch(3, np.float64)
    weighted = model.gradient(params, x, y, np.array([2.0, 0.0, 1.0]))
    grads, losses = flat(weighted.grads), weighted.losses
    rows = [0, 0, 2]
    np.testing.assert_allclose(grads, flat(model.gradient(params, x[rows], y[rows]).grads), atol=1e-12)
    np.testing.assert_allclose(losses, model.gradient(params, x, y).losses)


@pytest.mark.parametrize("layers", [LAYERS, (Relu(), *LAYERS), (Flatten(), Dense(4, "relu"), Dense(3))], ids=str)
def test_the_model_writes_neither_to_weights_nor_to_samples(layers):
    model = Model(SHAPE, layers, micro_batch=4)
    params, (x, y) = model.initial(0), batch(9)
    for array in (*params.values(), x, y):
        array.setflags(write=False)
    assert np.isfinite(model.gradient(params, x, y).losses).all()


def test_logits_of_no_samples_are_empty():
    model = Model(SHAPE, LAYERS)
    assert model.logits(model.initial(0), np.empty((0, *SHAPE), np.float32)).shape == (0, 3)


def test_the_model_learns_a_small_problem():
    """Which half of the image is brighter: hardly any error after 60 steps."""
    rng = np.random.default_rng(0)
    x = rng.random((256, *SHAPE), dtype=np.float32) * 0.5
    y = rng.integers(0, 2, 256)
    x[y == 0, :, :6] += 0.5
    x[y == 1, :, 6:] += 0.5
    model = Model(SHAPE, LAYERS)
    params = model.initial(0)
    slots = initial_slots(Sgd(), params)
    for step in range(60):
        update(Sgd(), params, slots, model.gradient(params, x, y).grads, learning_rate=0.05, step=step)
    assert model.gradient(params, x, y).num_correct > 250


@pytest.mark.parametrize("layers", [(Flatten(),), (Conv2d(2, (1, 1)),), (Dense(2),), (Conv2d(2, (13, 1)), Flatten())])
def test_layers_that_form_no_classifier_are_refused(layers):
    with pytest.raises(ShapeError):
        Model(SHAPE, layers)


def test_buffers_do_not_grow_with_the_mini_batch():
    model = Model(SHAPE, LAYERS, micro_batch=4)
    before = model.buffer_bytes
    model.gradient(model.initial(0), *batch(100))
    assert model.buffer_bytes == before > 0


def test_large_samples_go_through_small_buffers():
    """One sample of 256×256×3 fills some 9 MB of buffers here; 32 of them would be 290 MB."""
    layers = (Conv2d(8, (3, 3), activation="relu"), MaxPool2d((2, 2), (2, 2)), Flatten(), Dense(2))
    assert Model((256, 256, 3), layers).buffer_bytes < 24 << 20


def test_softmax_and_loss_stay_finite_for_large_logits():
    logits = np.array([[1000.0, 0.0, -1000.0], [3.0, 3.0, 3.0]], np.float32)
    np.testing.assert_allclose(softmax(logits), np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]]), rtol=1e-6)
    losses, gradient = cross_entropy(logits, np.array([2, 0]))
    np.testing.assert_allclose(losses, [2000, np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(gradient, np.array([[1, 0, -1], [-2 / 3, 1 / 3, 1 / 3]]), rtol=1e-6)
