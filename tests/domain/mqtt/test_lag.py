"""Devices that lag, as a note: within what a broker takes with an offset, and never a loss within it."""

from hypothesis import given
from hypothesis import strategies as st

from edged.domain import place
from edged.domain.mqtt.lag import MAX_DEVICES, from_note, to_note
from edged.domain.place import Place

BROKERS_DEFAULT = 4096
PLACE = Place((1 << 63) - 1, "i" * 64, "t" * 64, f"{(1 << 63) - 1}:{'f' * 16}")
DEVICES = [f"sensor-{i}" for i in range(2 * MAX_DEVICES)]


def test_devices_that_are_behind_are_found_again():
    note = to_note({"cam": 990, "meter": 0}, 1000)
    assert from_note(note, 1000, ["cam", "meter", "other"]) == {"cam": 990, "meter": 0}


def test_without_a_note_nobody_lags():
    assert to_note({}, 1000) == ""
    assert from_note("", 1000, ["cam"]) == {}


def test_a_device_that_the_topology_no_longer_has_is_left_out():
    assert from_note(to_note({"gone": 1, "cam": 2}, 3), 3, ["cam"]) == {"cam": 2}


def test_the_longest_note_fits_beside_the_longest_place():
    note = to_note(dict.fromkeys(DEVICES, 0), 1 << 62)
    assert len(place.to_text(PLACE, note)) <= BROKERS_DEFAULT


def test_of_too_many_those_that_are_furthest_behind_are_left_out():
    behind = {device: i for i, device in enumerate(DEVICES)}
    found = from_note(to_note(behind, len(DEVICES)), len(DEVICES), DEVICES)
    assert found == {device: offset for device, offset in behind.items() if offset >= MAX_DEVICES}


OFFSETS = st.integers(0, (1 << 39) - 1)  # two together are within what a note can say


@given(st.dictionaries(st.sampled_from(DEVICES), OFFSETS, max_size=MAX_DEVICES), OFFSETS)
def test_nobody_is_taken_to_have_got_more_than_it_has(behind, more):
    end = max(behind.values(), default=0) + more
    found = from_note(to_note(behind, end), end, DEVICES)
    assert all(found[device] <= offset for device, offset in behind.items())


@given(st.text(alphabet="0123456789abcdef,:x-", max_size=200), st.integers(0, 1 << 62))
def test_no_note_is_too_strange_to_read(note, end):
    assert all(0 <= offset <= end for offset in from_note(note, end, DEVICES[:3]).values())
