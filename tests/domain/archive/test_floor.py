"""A floor only rises, and what is below it is kept for a while."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.archive import floor as floors
from edged.domain.archive.floor import Floor, Raise
from edged.errors import FormatError

_OFFSETS = st.integers(0, (1 << 63) - 1)


@given(_OFFSETS, st.lists(st.tuples(_OFFSETS, _OFFSETS), max_size=5))
def test_a_floor_is_decoded_as_it_was_encoded(first, raises):
    floor = Floor(first)
    for step, now_ms in raises:
        floor = floor.raised(step, now_ms)
    assert floors.decode(floors.encode(floor)) == floor
    assert floor.first == max([first, *(step for step, _ in raises)])


def test_a_floor_does_not_sink():
    floor = Floor(7).raised(9, 1)
    assert floor.raised(9, 2) == floor.raised(3, 2) == floor


def test_what_is_below_is_deleted_when_nobody_reads_it_any_more():
    floor = Floor(0).raised(10, 1_000).raised(20, 2_000)
    assert [floor.deletable(before_ms) for before_ms in (999, 1_000, 1_999, 2_000)] == [0, 10, 10, 20]
    assert floor.forgotten(10) == Floor(20, (Raise(20, 2_000),))


def test_however_often_it_rises_it_can_be_read_and_what_is_below_is_deleted():
    floor = Floor(0)
    for step in range(1, 5001):
        floor = floor.raised(step, step)
    assert floors.decode(floors.encode(floor)) == floor
    assert floor.deletable(4999) == 4999
    assert floor.forgotten(4999) == Floor(5000, (Raise(5000, 5000),))


def test_what_is_left_below_a_floor_that_remembers_no_rise_may_go():
    """Such as an index that a writer brought back who had slept."""
    assert Floor(7).deletable(0) == 7


def _floor(first: object = 9, raises: object = (), version: int = 1) -> str:
    return json.dumps({"edged": f"archive_floor/{version}", "first": first, "raises": raises})


_NONE = [
    *("", "[]", "1", "null", "[" * 100_000, "{}", '{"edged": "archive_floor/1"}'),
    *(_floor(version=2), _floor(-1), _floor(first=True), _floor(1 << 63), _floor("9")),
    *(_floor(raises=[[10, 1]]), _floor(raises=[[5, 1], [5, 2]]), _floor(raises=[[5, "x"]]), _floor(raises=[5])),
]


@pytest.mark.parametrize("content", _NONE, ids=lambda text: text[-20:])
def test_what_is_no_floor_is_refused(content):
    with pytest.raises(FormatError):
        floors.decode(content.encode())
