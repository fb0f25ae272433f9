"""Whether a log is the one that a place was kept of, and what another one is called."""

import pytest

from edged.domain import place as places
from edged.domain.place import Place, Seen
from edged.errors import FormatError

PLACE = Place(10, "id-a", "id-a", "9:aa")


@pytest.mark.parametrize(
    ("seen", "same"),
    [
        pytest.param(Seen("id-a", 0, 10, "9:aa"), True, id="nothing has changed"),
        pytest.param(Seen("id-a", 0, 99, "9:bb"), False, id="restored from a loss: the id is kept"),
        pytest.param(Seen("id-b", 0, 99, "9:aa"), True, id="a mirror: the record is kept"),
        pytest.param(Seen("id-b", 0, 99, "9:bb"), False, id="recreated and longer than before"),
        pytest.param(Seen("id-b", 0, 9), False, id="recreated and shorter"),
        pytest.param(Seen("id-a", 0, 9), False, id="an end before the place"),
        pytest.param(Seen("id-a", 10, 99), True, id="the record has expired"),
        pytest.param(Seen("id-a", 30, 99), True, id="more than that has expired"),
        pytest.param(Seen("id-b", 10, 99), False, id="the record has expired, or was never in it"),
        pytest.param(Seen("", 10, 99), True, id="the record has expired, and the broker has no ids"),
    ],
)
def test_a_place_knows_its_log(seen, same):
    assert places.is_same(PLACE, seen) is same


@pytest.mark.parametrize(("record", "same"), [("10:aa", True), ("10:bb", False), ("", True)])
def test_without_ids_and_the_record_before_it_the_next_one_decides(record, same):
    assert places.is_same(Place(10, ".aa", next="10:aa"), Seen("", 10, 20, next=record)) is same


def test_the_same_log_is_read_on_under_its_name():
    assert places.resume(PLACE, Seen("id-a", 0, 99, "9:aa")) == PLACE
    assert places.resume(PLACE, Seen("id-b", 0, 99, "9:aa")) == PLACE._replace(topic_id="id-b")


def test_another_log_is_read_from_its_beginning_under_a_name_of_its_own():
    assert places.resume(PLACE, Seen("id-b", 5, 99, "9:bb")) == Place(5, "id-b", "id-b")


def test_a_place_of_an_offset_alone_takes_the_name_of_the_log_that_it_finds():
    assert places.resume(Place(10), Seen("id-a", 0, 99)) == Place(10, "id-a", "id-a")
    assert places.resume(Place(10), Seen("id-a", 0, 9)) == Place(0, "id-a", "id-a")


@pytest.mark.parametrize("topic_id", ["id-a", ""])
def test_logs_without_an_id_of_their_own_are_told_apart_by_their_first_record(topic_id):
    place = PLACE._replace(topic_id=topic_id)
    names = {"id-a"}
    for number in range(3):
        seen = Seen(topic_id, 0, 99, f"9:{number}", first="0:ff")
        place = places.resume(place._replace(before="9:aa"), seen)
        names.add(place.incarnation)
        assert place.is_named

    assert len(names) == 4
    assert all(name.startswith(topic_id) for name in names)


@pytest.mark.parametrize("topic_id", ["id-a", ""])
def test_an_empty_log_without_an_id_of_its_own_is_named_once_it_has_a_record(topic_id):
    empty = places.resume(PLACE, Seen(topic_id, 0, 0))
    named = places.resume(empty, Seen(topic_id, 0, 3, first="0:ff"))

    assert not empty.is_named
    assert named.is_named
    assert named.incarnation == places.resume(PLACE, Seen(topic_id, 0, 3, first="0:ff")).incarnation
    assert named.offset == 0


@pytest.mark.parametrize("other", [(1, 5, b"k", b"v", ()), (0, 5, None, b"kv", ()), (0, 5, b"k", b"v", (("h", b""),))])
def test_records_have_fingerprints_of_their_own(other):
    of_one = places.fingerprint(0, 5, b"k", b"v", ())
    assert of_one == places.fingerprint(0, 5, b"k", b"v", ())
    assert of_one.partition(":")[2] != places.fingerprint(*other).partition(":")[2] or other[0] == 1
    assert of_one != places.fingerprint(*other)


def test_a_place_survives_as_json_and_beside_a_committed_offset():
    assert places.from_json(places.to_json(PLACE)) == PLACE
    assert places.from_text(10, places.to_text(PLACE, "57")) == (PLACE, "57")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '["a"]', '["a","b","c"]', "[" * 10_000, '["a","b","x:1","n"]'])
def test_what_others_commit_is_a_place_of_the_offset_alone(text):
    assert places.from_text(10, text) == (Place(10), "")


@pytest.mark.parametrize(
    "values",
    [None, [1], [True, "", "", ""], [-1, "", "", ""], [1 << 63, "", "", ""], [1, "a" * 65, "", ""], [1, "é", "", ""]],
)
def test_what_is_no_place_is_refused(values):
    with pytest.raises(FormatError):
        places.from_json(values)
