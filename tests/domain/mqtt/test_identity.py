"""Each id is new once; what never came is counted; and whatever is sent, memory stays bounded."""

import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.mqtt.identity import (
    DUPLICATE,
    MAX_SERIES,
    MAX_TEXTS,
    NEW,
    TEXT_IDS_BYTES,
    WINDOW,
    AnyIds,
    CounterIds,
    Seen,
    TextIds,
    ledger,
)
from edged.errors import RejectedRecord


def seen(ids, *numbers):
    return [ids.see(str(number)) for number in numbers]


def test_a_counter_that_rises_by_one_is_new_each_time_and_known_when_it_comes_again():
    ids = CounterIds()
    assert seen(ids, 5, 6, 7) == [NEW] * 3
    assert seen(ids, 5, 6, 7) == [DUPLICATE] * 3


def test_a_jump_tells_how_many_are_missing_and_late_ones_are_taken_off():
    ids = CounterIds()
    seen(ids, 1)
    assert seen(ids, 5) == [Seen(is_duplicate=False, missing=3)]
    assert seen(ids, 3, 3) == [Seen(is_duplicate=False, missing=-1), DUPLICATE]


@pytest.mark.parametrize("highest", [WINDOW + 10, 10**18 - 1])
def test_a_counter_that_falls_by_more_than_the_window_is_new_and_told(highest):
    ids = CounterIds()
    seen(ids, highest)
    assert seen(ids, highest - WINDOW + 1) == [Seen(is_duplicate=False, missing=-1)]
    assert seen(ids, 0, 1) == [Seen(is_duplicate=False, has_restarted=True), NEW]


def test_each_series_counts_for_itself():
    ids = CounterIds()
    assert [ids.see(each) for each in ("a:1", "b:1", "1", "a:1", "b:2")] == [NEW, NEW, NEW, DUPLICATE, NEW]


def test_a_device_that_was_killed_after_each_sample_is_known_by_all_of_its_series():
    """What has no receipt is sent again, a window of 64 samples, each of another life."""
    ids = CounterIds()
    assert [ids.see(f"{series:012x}:1") for series in (*range(64), *range(64))] == [NEW] * 64 + [DUPLICATE] * 64


@pytest.mark.parametrize("text", ["", "x", "-1", "1.0", ":1", "a:", "a:b:1", "1" * 19, "s" * 65 + ":1", "١"])
def test_what_is_no_counter_is_refused(text):
    with pytest.raises(RejectedRecord, match="wrong_id"):
        CounterIds().see(text)


@given(st.lists(st.integers(0, 3 * WINDOW), max_size=60))
def test_no_number_is_new_twice_within_the_window_and_none_is_dropped_that_was_not_seen(numbers):
    ids = CounterIds()
    known: set[int] = set()
    for number in numbers:
        verdict = ids.see(str(number))
        if verdict.has_restarted:
            known.clear()
        if verdict.is_duplicate:
            assert number in known
        elif known and number > max(known) - WINDOW:
            assert number not in known
        known.add(number)


@given(st.lists(st.tuples(st.text(max_size=70), st.integers(0, 10**18 - 1)), max_size=100))
def test_whatever_counts_takes_little_memory(ids):
    counter = CounterIds()
    for series, number in ids:
        try:
            counter.see(f"{series}:{number}")
        except RejectedRecord:
            continue
    for series in range(MAX_SERIES):
        counter.see(f"another {series}:1")
    assert len(counter._series) == MAX_SERIES
    assert all(sys.getsizeof(each.bits) <= WINDOW // 7 for each in counter._series.values())


def test_texts_take_no_more_memory_than_is_counted_for_them():
    tracemalloc.start()
    ids = TextIds()
    for i in range(MAX_TEXTS + 100):
        ids.see(str(i).rjust(256))
    _now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert TEXT_IDS_BYTES / 2 < most < TEXT_IDS_BYTES


def test_of_texts_the_last_ones_are_known():
    ids = TextIds()
    assert [ids.see("a"), ids.see("a"), ids.see("b")] == [NEW, DUPLICATE, NEW]
    for i in range(MAX_TEXTS):
        assert ids.see(f"text {i}") == NEW
    assert ids.see("a") == NEW
    assert len(ids._order) == len(ids._known) == MAX_TEXTS


def test_a_device_that_declares_no_ids_says_the_same_as_often_as_it_likes():
    ids = ledger("none")
    assert isinstance(ids, AnyIds)
    assert [ids.see("1"), ids.see("1")] == [NEW, NEW]
