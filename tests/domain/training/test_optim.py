"""The optimizers, against hand-made numbers and references written out number by number."""

import math

import numpy as np
import pytest

from edged.domain.topology import Adam, Lars, Optimizer, Sgd
from edged.domain.training import optim

OPTIMIZERS = [Sgd(), Sgd(momentum=0.5, nesterov=True), Adam(), Adam(beta1=0.5, epsilon=0.1), Lars(trust=0.1)]
RATES = [0.5, 0.25, 0.125, 0.1]
GRADS = [np.random.default_rng(i).standard_normal((3, 2)) for i in range(len(RATES))]


def run(optimizer: Optimizer, *, weight_decay: float = 0.0, name: str = "kernel", shape=(3, 2)):
    params = {name: np.random.default_rng(9).standard_normal(6).reshape(shape)}
    slots = optim.initial_slots(optimizer, params)
    for step, (rate, grad) in enumerate(zip(RATES, GRADS, strict=True)):
        grads = {name: grad.reshape(shape)}
        optim.update(optimizer, params, slots, grads, learning_rate=rate, step=step, weight_decay=weight_decay)
    return params[name].ravel()


def reference(one):
    """The same steps, each number for itself: `one(p, g, rate, state, t)` gives the new p."""
    numbers = np.random.default_rng(9).standard_normal(6).tolist()
    states: list[dict[str, float]] = [{"v": 0.0, "m": 0.0} for _ in numbers]
    for t, (rate, grad) in enumerate(zip(RATES, GRADS, strict=True), start=1):
        gradients = grad.ravel().tolist()
        numbers = [one(*each, rate, state, t) for *each, state in zip(numbers, gradients, states, strict=True)]
    return numbers


def test_momentum_accumulates_gradients_before_the_learning_rate():
    params, grads = {"w": np.array([1.0, 2.0], np.float32)}, {"w": np.array([1.0, -2.0], np.float32)}
    sgd = Sgd(momentum=0.5)
    slots = optim.initial_slots(sgd, params)
    optim.update(sgd, params, slots, grads, learning_rate=0.5, step=0)
    np.testing.assert_array_equal(params["w"], [0.5, 3.0])
    optim.update(sgd, params, slots, grads, learning_rate=0.25, step=1)
    np.testing.assert_array_equal(slots["velocity"]["w"], [1.5, -3.0])
    np.testing.assert_array_equal(params["w"], [0.125, 3.75])


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_form_of_pytorch_with_l2_decay(decay, nesterov):
    def one(p, g, rate, state, _):
        g += decay * p
        state["v"] = 0.7 * state["v"] + g
        return p - rate * (g + 0.7 * state["v"] if nesterov else state["v"])

    np.testing.assert_allclose(run(Sgd(1, 0.7, nesterov), weight_decay=decay), reference(one), rtol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_algorithm_1_with_decoupled_decay(decay):
    def one(p, g, rate, state, t):
        state["m"] = 0.8 * state["m"] + 0.2 * g
        state["v"] = 0.95 * state["v"] + 0.05 * g * g
        mean, variance = state["m"] / (1 - 0.8**t), state["v"] / (1 - 0.95**t)
        return p - rate * decay * p - rate * mean / (math.sqrt(variance) + 1e-3)

    np.testing.assert_allclose(run(Adam(1, 0.8, 0.95, 1e-3), weight_decay=decay), reference(one), rtol=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_slots_of_weights_without_gradients_become_zero_and_never_denormal(optimizer):
    tiny = np.finfo(np.float32).tiny
    params, grads = {"kernel": np.ones((3, 2), np.float32)}, {"kernel": np.zeros((3, 2), np.float32)}
    slots = optim.initial_slots(optimizer, params)
    values = [slot["kernel"] for slot in slots.values()]
    for value in values:
        value[:] = 1.5 * tiny
        value[0] *= -1  # a variance never is, but the rule is one
    denormal = 0
    with np.errstate(invalid="ignore"):
        for step in range(500):
            optim.update(optimizer, params, slots, grads, learning_rate=0.1, step=step)
            denormal += sum(int(np.count_nonzero((value != 0) & (np.abs(value) < tiny))) for value in values)
    assert denormal == 0
    assert not any(value.any() for value in values)


def test_lars_steps_a_fraction_of_the_kernels_norm():
    """Without momentum: |step| = rate · trust · |p|, in the gradient's direction."""
    lars, kernel, grad = Lars(1, momentum=0, trust=0.01), np.full((2, 2), 3.0), np.full((2, 2), 1000.0)
    params = {"kernel": kernel.copy()}
    optim.update(lars, params, optim.initial_slots(lars, params), {"kernel": grad}, learning_rate=0.5, step=0)
    np.testing.assert_allclose(params["kernel"], kernel - 0.5 * 0.01 * 3.0)


def test_lars_with_decay_divides_by_both_norms():
    lars, params, grad = Lars(1, momentum=0, trust=0.01), {"kernel": np.full((1, 4), 2.0)}, np.full((1, 4), 3.0)
    optim.update(
        lars, params, optim.initial_slots(lars, params), {"kernel": grad}, learning_rate=1, step=0, weight_decay=0.5
    )
    # |p| = 4, |g| = 6: the rate is 0.01 · 4 / (6 + 0.5 · 4), the gradient with its decay 3 + 0.5 · 2
    np.testing.assert_allclose(params["kernel"], 2 - 0.01 * 4 / 8 * 4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_biases_do_not_decay(optimizer):
    with_decay, without = (run(optimizer, weight_decay=decay, name="bias", shape=(6,)) for decay in (0.5, 0.0))
    np.testing.assert_array_equal(with_decay, without)
    assert not np.array_equal(run(optimizer, weight_decay=0.5), run(optimizer))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_a_step_changes_arrays_in_place_and_leaves_the_gradient(optimizer):
    params, grads = {"w": np.ones((2, 2), np.float32)}, {"w": np.ones((2, 2), np.float32)}
    slots = optim.initial_slots(optimizer, params)
    before = [params["w"], *(slot["w"] for slot in slots.values())]
    optim.update(optimizer, params, slots, grads, learning_rate=0.1, step=0, weight_decay=0.1)
    after = [params["w"], *(slot["w"] for slot in slots.values())]
    assert all(old is new and new.dtype == np.float32 for old, new in zip(before, after, strict=True))
    assert len(slots) == len(optimizer.slots)
    np.testing.assert_array_equal(grads["w"], np.ones((2, 2)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_every_optimizer_descends_a_quadratic(optimizer):
    params = {"w": np.array([[3.0, -2.0]])}
    slots = optim.initial_slots(optimizer, params)
    for step in range(300):
        optim.update(optimizer, params, slots, {"w": params["w"] * [1, 10]}, learning_rate=0.02, step=step)
    assert np.abs(params["w"]).max() < 1.5


def test_zero_weights_do_not_stop_lars():
    params = {"w": np.zeros((1, 1))}
    optim.update(
        Lars(momentum=0), params, optim.initial_slots(Lars(), params), {"w": np.ones((1, 1))}, learning_rate=1, step=0
    )
    np.testing.assert_array_equal(params["w"], [[-1]])


@pytest.mark.parametrize(("max_norm", "scale"), [(10, 1), (5, 1), (2.5, 0.5)])
def test_clipping_limits_the_global_norm(max_norm, scale):
    grads = {"a": np.array([3.0]), "b": np.array([[0.0, 4.0]])}
    assert optim.clip(grads, max_norm) == pytest.approx(5)
    np.testing.assert_allclose(grads["a"], [3 * scale])
    np.testing.assert_allclose(grads["b"], [[0, 4 * scale]])


def test_clipping_by_the_exact_norm_gives_the_same_bits_on_every_cpu():
    grad = np.random.default_rng(5).standard_normal(100_003, np.float32)
    exact = math.sqrt(math.fsum(float(number) ** 2 for number in grad))
    grads = {"w": grad.copy()}

    optim.clip(grads, 1.0)

    assert grads["w"].tobytes() == (grad * np.float32(1.0 / exact)).tobytes()
