"""Parameters as one vector."""

import numpy as np

from edged.domain.nn import param_vector

PARAMS = {"b.kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.array([7, 8], np.float32)}


def test_parameters_come_in_the_order_of_their_names():
    assert param_vector.flatten(PARAMS).tolist() == [7, 8, 0, 1, 2, 3, 4, 5]
    assert param_vector.size(PARAMS) == 8


def test_a_vector_is_split_into_what_was_flattened():
    views = param_vector.split(param_vector.flatten(PARAMS), PARAMS)
    assert views.keys() == PARAMS.keys()
    for name, param in PARAMS.items():
        np.testing.assert_array_equal(views[name], param)


def test_the_digest_depends_on_every_bit_and_not_on_the_order_of_the_dict():
    other = {name: param.copy() for name, param in reversed(PARAMS.items())}
    assert param_vector.digest(other) == param_vector.digest(PARAMS)
    other["a.bias"][0] = np.nextafter(np.float32(7), np.float32(8))
    assert param_vector.digest(other) != param_vector.digest(PARAMS)
