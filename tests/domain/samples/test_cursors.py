"""Cursors never decrease, and samples below them are left out."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edged.domain.place import Place
from edged.domain.samples.cursors import advance, archived_key, cursor_key, device_of, without_duplicates
from edged.domain.samples.pack import Pack
from tests.support.archive_samples import pack, sample


def test_a_cursors_key_names_its_device():
    assert cursor_key("cam-01", 12) == "cam-01/12"
    assert device_of("cam-01/12") == "cam-01"


def test_cursors_rise_with_packs_and_their_samples():
    assert advance({"cam-01/0": 3, "cam-09/0": 2}, pack(5, 2)) == {"cam-01/0": 7, "cam-09/0": 2}
    assert advance({}, replace(pack(5, 2), cursors={})) == {"cam-01/0": 7}


def test_each_incarnation_of_a_log_has_a_cursor_of_its_own():
    old, new = [
        Pack("fashion", (replace(sample(2), incarnation=name),), {"cam-01/0": Place(3, name)}) for name in ("a", "b")
    ]
    cursors = advance({"cam-01/0": 9}, old)

    assert cursors == {"cam-01/0": 9, "cam-01/0/a": 3}
    assert archived_key("cam-01/0", "a") == "cam-01/0/a"
    assert without_duplicates(old, cursors).samples == ()
    assert without_duplicates(new, cursors) is new
    assert advance(cursors, new) == {"cam-01/0": 9, "cam-01/0/a": 3, "cam-01/0/b": 3}


def test_a_pack_sent_again_changes_nothing():
    cursors = advance(advance({}, pack(0, 4)), pack(4, 4))

    assert advance(cursors, pack(0, 4)) == cursors


def test_a_pack_without_duplicates_stays_the_same_object():
    new = pack(4)

    assert without_duplicates(new, {"cam-01/0": 4, "cam-02/0": 99}) is new


def test_samples_below_the_cursor_are_left_out_and_the_cursors_kept():
    assert without_duplicates(pack(0, 4), {"cam-01/0": 3}) == replace(pack(0, 4), samples=(sample(3),))


def test_a_sample_that_a_pack_holds_twice_is_kept_once():
    twice = Pack("fashion", (sample(1), sample(2), sample(1)))

    assert without_duplicates(twice, {}).samples == (sample(1), sample(2))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), max_size=12))
def test_overlapping_ranges_give_each_sample_once_and_in_order(ranges):
    """A restarted uplink may send ranges again that begin anywhere at or before its cursor."""
    cursors: dict[str, int] = {}
    archived: list[int] = []
    for back, length in ranges:
        first = max(0, cursors.get("cam-01/0", 0) - back)
        fresh = without_duplicates(pack(first, length), cursors)
        cursors = advance(cursors, fresh)
        archived += [each.offset for each in fresh.samples]

    assert archived == list(range(len(archived)))
    assert len(archived) == cursors.get("cam-01/0", 0)
