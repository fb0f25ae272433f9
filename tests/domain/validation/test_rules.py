"""All rules together."""

from tests.support.valid_topology import VALID, problems, warnings


def test_a_valid_topology_has_neither_problems_nor_warnings():
    assert problems(VALID) == []
    assert warnings(VALID) == []
