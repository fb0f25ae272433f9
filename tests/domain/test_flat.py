"""Parameters as one vector."""

import numpy as np

from edged.domain import flat

PARAMS = {"b.kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.array([7, 8], np.float32)}


def test_parameters_come_in_the_order_of_their_names():
    assert flat.flatten(PARAMS).tolist() == [7, 8, 0, 1, 2, 3, 4, 5]
    assert flat.size(PARAMS) == 8


def test_a_vector_is_split_into_what_was_flattened():
    views = flat.split(flat.flatten(PARAMS), PARAMS)
    assert views.keys() == PARAMS.keys()
    for name, param in PARAMS.items():
        np.testing.assert_array_equal(views[name], param)


def test_the_digest_tells_any_changed_bit_and_not_the_order_of_a_dict():
    other = {name: param.copy() for name, param in reversed(PARAMS.items())}
    assert flat.digest(other) == flat.digest(PARAMS)
    other["a.bias"][0] = np.nextafter(np.float32(7), np.float32(8))
    assert flat.digest(other) != flat.digest(PARAMS)
