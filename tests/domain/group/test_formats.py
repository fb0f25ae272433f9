"""Which format a group's records are written in."""

import json
from dataclasses import replace

import pytest

from edged.domain import tensors
from edged.domain.group import formats, records
from edged.domain.group.formats import Announcement
from edged.domain.group.records import (
    NEWEST_FORMAT,
    Begin,
    Close,
    Join,
    Leave,
    Part,
    decode,
    encode,
    from_values,
    to_values,
)
from edged.errors import AnotherVersion, FormatError

HEX = "0123456789abcdef" * 4
BEGIN = Begin(0, {"pi-a": 0.5, "pi-b": 0.5}, {"pi-a": 7}, 9, HEX, "pi-a")
BEGIN_2 = Begin(0, {"pi-a": 0.5, "pi-b": 0.5}, {"pi-a": 7}, 9, HEX, "pi-a", format=2)
BEGIN_3 = Begin(0, {"pi-a": 0.5, "pi-b": 0.5}, {"pi-a": 7}, 9, HEX, "pi-a", 3, "compiled/1")
PART = Part("pi-a", 3, "0badcafe", 0, 1, 16, 2.5, 7, 100.0, b"chunk")


def version(blob: bytes) -> str:
    return tensors.decode(blob)[1]["edged"]


def test_a_writer_is_known_by_what_it_has_announced():
    for each in (Announcement(NEWEST_FORMAT), Announcement(1), Announcement(3, "compiled/2")):
        assert formats.announced(formats.headers(each)) == each
    assert formats.announced([("edged-exchange", b"7"), ("edged-backend", b"gpu")]) == (7, "gpu")


@pytest.mark.parametrize(
    "headers",
    [
        [], [("other", b"2")], *([("edged-exchange", each)] for each in (b"", b"0", b"-1", b"x", b"12345", b"\xff")),
        *([("edged-backend", each)] for each in (b"", b"numpy", b"a b", b"\xff", b"a" * 33, b"compiled/12345")),
    ],
)  # fmt: skip
def test_whoever_announces_nothing_usable_knows_the_oldest_and_computes_by_numpy(headers):
    assert formats.announced(headers) == (1, "numpy")


def test_an_epoch_is_in_the_lowest_format_that_its_members_have_announced():
    one, two, nine = (Announcement(number) for number in (1, 2, 9))
    assert formats.agreed({"pi-a": two, "pi-b": two}, ["pi-a", "pi-b"]).format == 2
    assert formats.agreed({"pi-a": two, "pi-b": one}, ["pi-a", "pi-b"]).format == 1
    assert formats.agreed({"pi-a": two}, ["pi-a", "pi-b"]).format == 1
    assert formats.agreed({"pi-a": nine}, ["pi-a"]).format == NEWEST_FORMAT


@pytest.mark.parametrize(
    ("one", "other", "backend", "without"),
    [
        (Announcement(3, "compiled/1"), Announcement(3, "compiled/1"), "compiled/1", []),
        (Announcement(3, "compiled/1"), Announcement(3), "numpy", ["pi-b"]),
        (Announcement(3, "compiled/1"), Announcement(3, "compiled/2"), "numpy", ["pi-b"]),
        (Announcement(3, "compiled/1"), Announcement(2, "compiled/1"), "numpy", ["pi-b"]),
        (Announcement(3, "compiled/1"), None, "numpy", ["pi-b"]),
    ],
)
def test_an_epoch_is_computed_by_the_backend_that_all_its_members_have_else_by_numpy(one, other, backend, without):
    known = {"pi-a": one} | ({} if other is None else {"pi-b": other})
    assert formats.agreed(known, ["pi-a", "pi-b"]).backend == backend
    assert formats.without("compiled/1", known, ["pi-b", "pi-a"]) == without


def test_a_members_coming_and_going_is_in_the_oldest_all_else_as_the_epochs_begin_says():
    for record in (Join("pi-a", HEX, 3, HEX), Leave("pi-a")):
        assert formats.of_record(record, BEGIN_2) == 1
    for other in (Close(3, "pi-a"), PART):
        assert [formats.of_record(other, begin) for begin in (None, BEGIN, BEGIN_2)] == [1, 1, 2]
    assert [formats.of_record(begin, BEGIN) for begin in (BEGIN, BEGIN_2)] == [1, 2]


def test_records_of_all_formats_are_read():
    for record in (BEGIN_3, BEGIN_2, BEGIN, PART):
        assert decode(encode(record, 2)) == record
    assert [version(encode(each)) for each in (BEGIN, BEGIN_2, BEGIN_3)] == ["exchange/1", "exchange/2", "exchange/3"]
    assert "format" not in json.loads(tensors.decode(encode(BEGIN))[1]["record"])
    assert "backend" not in json.loads(tensors.decode(encode(BEGIN_2))[1]["record"])


def test_a_begin_names_floors_where_its_format_has_them_and_nowhere_else():
    floors = {"_floor.pi-a": 3, "_floor._train.birds": 5, "pi-a": 7}
    begin = replace(BEGIN_3, format=4, ends=floors)
    assert decode(encode(begin)) == begin
    assert version(encode(begin)) == "exchange/4"
    for change in ({"format": 3}, {"ends": {"_floor.": 3}}, {"ends": {"_floor._floor.pi-a": 3}}):
        with pytest.raises(FormatError):
            replace(begin, **change)


def test_a_begin_names_a_backend_where_its_format_has_one_and_nowhere_else():
    """Who knows the older format only rejects what it does not know, and all must reject the same."""
    with pytest.raises(FormatError, match="backend"):
        replace(BEGIN_2, backend="compiled/1")
    for begin, change in ((BEGIN_2, {"backend": "numpy"}), (BEGIN_3, {"backend": 7}), (BEGIN_3, {"backend": "a b"})):
        with pytest.raises(FormatError):
            from_values({**to_values(begin), **change})
    without = to_values(BEGIN_3)
    del without["backend"]
    with pytest.raises(FormatError, match="missing"):
        from_values(without)


def test_a_begin_in_another_format_than_it_names_is_refused():
    blob = encode(BEGIN_2).replace(b"exchange/2", b"exchange/1")
    with pytest.raises(FormatError, match="begins an epoch of exchange/2 in exchange/1"):
        decode(blob)


def test_a_later_format_is_refused_in_words():
    with pytest.raises(AnotherVersion, match="'exchange/5', of another version"):
        decode(encode(PART).replace(b"exchange/1", b"exchange/5"))


def test_the_author_of_a_small_record_is_known():
    assert formats.author(encode(Close(3, "pi-b"))) == "pi-b"
    assert formats.author(b"nonsense") == ""
    assert formats.author(encode(records.Update(3, 0, 1, (), 12, "{}", b""))) == ""
