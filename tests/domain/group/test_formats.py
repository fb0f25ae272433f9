"""Which format a group's records are written in."""

import json

import pytest

from edged.domain import tensors
from edged.domain.group import formats, records
from edged.domain.group.records import NEWEST_FORMAT, Begin, Close, Join, Leave, Part, decode, encode
from edged.errors import AnotherVersion, FormatError

HEX = "0123456789abcdef" * 4
BEGIN = Begin(0, {"pi-a": 0.5, "pi-b": 0.5}, {"pi-a": 7}, 9, HEX, "pi-a")
BEGIN_2 = Begin(0, {"pi-a": 0.5, "pi-b": 0.5}, {"pi-a": 7}, 9, HEX, "pi-a", format=2)
PART = Part("pi-a", 3, "0badcafe", 0, 1, 16, 2.5, 7, 100.0, b"chunk")


def version(blob: bytes) -> str:
    return tensors.decode(blob)[1]["edged"]


def test_a_writer_is_known_by_what_it_has_announced():
    assert formats.announced(formats.announcement()) == NEWEST_FORMAT
    assert formats.announced(formats.announcement(1)) == 1
    assert formats.announced([("edged-exchange", b"7")]) == 7


@pytest.mark.parametrize(
    "headers",
    [[], [("other", b"2")], *([("edged-exchange", each)] for each in (b"", b"0", b"-1", b"x", b"12345", b"\xff"))],
)
def test_whoever_announces_nothing_usable_knows_the_oldest(headers):
    assert formats.announced(headers) == 1


def test_an_epoch_is_in_the_lowest_format_that_its_members_have_announced():
    assert formats.lowest({"pi-a": 2, "pi-b": 2}, ["pi-a", "pi-b"]) == 2
    assert formats.lowest({"pi-a": 2, "pi-b": 1}, ["pi-a", "pi-b"]) == 1
    assert formats.lowest({"pi-a": 2}, ["pi-a", "pi-b"]) == 1
    assert formats.lowest({"pi-a": 9}, ["pi-a"]) == NEWEST_FORMAT


def test_a_members_coming_and_going_is_in_the_oldest_all_else_as_the_epochs_begin_says():
    for record in (Join("pi-a", HEX, 3, HEX), Leave("pi-a")):
        assert formats.of_record(record, BEGIN_2) == 1
    for other in (Close(3, "pi-a"), PART):
        assert [formats.of_record(other, begin) for begin in (None, BEGIN, BEGIN_2)] == [1, 1, 2]
    assert [formats.of_record(begin, BEGIN) for begin in (BEGIN, BEGIN_2)] == [1, 2]


def test_records_of_both_formats_are_read():
    for record in (BEGIN_2, BEGIN, PART):
        assert decode(encode(record, 2)) == record
    assert [version(encode(each)) for each in (BEGIN, BEGIN_2)] == ["exchange/1", "exchange/2"]
    assert "format" not in json.loads(tensors.decode(encode(BEGIN))[1]["record"])


def test_a_begin_in_another_format_than_it_names_is_refused():
    blob = encode(BEGIN_2).replace(b"exchange/2", b"exchange/1")
    with pytest.raises(FormatError, match="begins an epoch of exchange/2 in exchange/1"):
        decode(blob)


def test_a_later_format_is_refused_in_words():
    with pytest.raises(AnotherVersion, match="'exchange/3', of another version"):
        decode(encode(PART).replace(b"exchange/1", b"exchange/3"))


def test_the_author_of_a_small_record_is_known():
    assert formats.author(encode(Close(3, "pi-b"))) == "pi-b"
    assert formats.author(b"nonsense") == ""
    assert formats.author(encode(records.Update(3, 0, 1, (), 12, "{}", b""))) == ""
