"""Samples that have arrived are found by their ids, and take little room beside their payloads."""

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.cache.entry import Entry
from edged.domain.epochs.window import SAMPLE_OVERHEAD
from edged.services.epochs.arrived import Arrived, find

IDS = st.lists(st.integers(0, 30), unique=True)


def add(arrived, ids, payload=lambda sample: b"%d" % sample):
    arrived.add(np.array(ids, np.int64), list(map(payload, ids)), ["raw"] * len(ids), list(map(str, ids)))


@given(st.lists(IDS), IDS)
def test_it_agrees_with_a_dict(batches, wanted):
    arrived, model = Arrived(), dict[int, Entry | None]()
    for number, ids in enumerate(batches):
        payloads = {each: None if each % 5 == 0 else b"%d of %d" % (each, number) for each in ids}
        add(arrived, ids, payloads.get)
        model |= {each: None if text is None else Entry(text, "raw", str(each)) for each, text in payloads.items()}
    ids = np.array(wanted, np.int64)
    assert arrived.have(ids).tolist() == [each in model for each in wanted]
    assert arrived.entries(ids) == {each: model[each] for each in wanted if each in model}


@given(IDS, IDS)
def test_places_are_found_where_there_are_some(rising, wanted):
    at, is_there = find(np.array(sorted(rising), np.int64), np.array(wanted, np.int64))
    assert is_there.tolist() == [each in rising for each in wanted]
    assert [sorted(rising)[i] for i in at[is_there].tolist()] == [each for each in wanted if each in rising]


def test_a_sample_takes_no_more_room_than_is_reckoned_with():
    count, size = 10_000, 64
    tracemalloc.start()
    try:
        arrived = Arrived()
        ids = np.arange(count)
        arrived.add(ids, [bytes(size) for _ in range(count)], ["raw"] * count, ["a"] * count)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / count <= size + SAMPLE_OVERHEAD + 40
    arrived.entries(ids[:128])
