"""The table agrees with a dict, and costs a few bytes a sample."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.archive.snapshot import BlockRef
from edged.domain.cache.block_table import BlockTable
from edged.domain.cache.entry import SampleKey

KEYS = st.builds(SampleKey, st.sampled_from(["a", "b"]), st.integers(0, 3), st.integers(0, 300))


@given(st.lists(st.tuples(KEYS, st.integers(-1, 3))))
def test_it_agrees_with_a_dict(changes):
    table, model = BlockTable(), dict[SampleKey, int]()
    for key, value in changes:
        table[key] = value
        model[key] = value
    model = {key: value for key, value in model.items() if value}
    assert dict(table.items()) == model
    assert len(table) == len(model)
    for source in ("a", "b"):
        for offset in range(4):
            expected = [model.get(SampleKey(source, offset, row), 0) for row in range(301)]
            assert table.rows(source, offset, 301).tolist() == expected


def test_numbers_are_added_to_those_of_a_blocks_rows():
    table, ref = BlockTable(), BlockRef("a", 7)
    table.add(ref, np.array([], np.int64), 1)
    table.add(ref, np.array([300, 2]), 1)
    table.add(ref, np.array([2]), 1)
    assert dict(table.items()) == {SampleKey("a", 7, 2): 2, SampleKey("a", 7, 300): 1}
    table.add(ref, np.array([2, 300]), -1)
    assert dict(table.items()) == {SampleKey("a", 7, 2): 1}
    assert len(table) == 1


def test_emptied_blocks_are_dropped():
    table = BlockTable()
    keys = [SampleKey("a", offset, row) for offset in range(50) for row in range(256)]
    for key in keys:
        table[key] = 7
    assert table.num_bytes < 10 * len(keys)
    for key in keys:
        table[key] = 0
    assert table.num_bytes == 0
