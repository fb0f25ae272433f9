"""The update rule, against hand-made numbers."""

import numpy as np

from edged.domain.optim import initial_velocity, sgd_step


def test_momentum_accumulates_gradients_before_the_learning_rate():
    params, grads = {"w": np.array([1.0, 2.0], np.float32)}, {"w": np.array([1.0, -2.0], np.float32)}
    velocity = initial_velocity(params)
    sgd_step(params, velocity, grads, learning_rate=0.5, momentum=0.5)
    np.testing.assert_array_equal(params["w"], [0.5, 3.0])
    sgd_step(params, velocity, grads, learning_rate=0.25, momentum=0.5)
    np.testing.assert_array_equal(velocity["w"], [1.5, -3.0])
    np.testing.assert_array_equal(params["w"], [0.125, 3.75])


def test_step_changes_arrays_in_place_and_leaves_the_gradient():
    params, grads = {"w": np.ones((2, 2), np.float32)}, {"w": np.ones((2, 2), np.float32)}
    velocity = initial_velocity(params)
    param, speed = params["w"], velocity["w"]
    sgd_step(params, velocity, grads, learning_rate=0.1, momentum=0.9)
    assert params["w"] is param
    assert velocity["w"] is speed
    assert param.dtype == np.float32
    np.testing.assert_array_equal(grads["w"], np.ones((2, 2)))
