"""An index says which file has which offset; its bytes say the same again, and no bytes do harm."""

import hashlib
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain import tensors
from edged.domain.archive import index_codec, segment_index
from edged.domain.archive.layout import OF_BEFORE, SEGMENT, WRITTEN
from edged.domain.archive.segment_index import IndexedFile, Replaced, SegmentIndex, end_of_damaged, index_of
from edged.errors import AnotherVersion, FormatError

NOTHING = np.zeros(0, np.int64)


def file(first: int, end: int, **other: Any) -> IndexedFile:
    """A file of the index, with a block of four samples at each offset."""
    offset = np.arange(first, end)
    given = IndexedFile(
        WRITTEN, first, first, end, 1000 + first, "log", 0, 0, 5, False, offset, np.full(len(offset), 4), offset * 7
    )
    return given._replace(**other)


def damaged(first: int, end: int) -> IndexedFile:
    """A file of which no block is known."""
    return file(first, end, is_damaged=True, offset=NOTHING, rows=NOTHING, num_bytes=NOTHING)


@st.composite
def indexes(draw: st.DrawFn) -> SegmentIndex:
    """Any that a writer can make."""
    segment = draw(st.sampled_from([0, 1, 77, (1 << 44)]))
    at = segment * SEGMENT + draw(st.integers(0, 100))
    files = []
    for _ in range(draw(st.integers(0, 6))):
        end = at + draw(st.integers(1, 50))
        offset = np.array(sorted(draw(st.sets(st.integers(at, end - 1), max_size=5))), np.int64)
        numbers = st.lists(st.integers(0, 256), min_size=len(offset), max_size=len(offset))
        name = draw(st.sampled_from(["", "a log", "another"]))
        made = IndexedFile(
            draw(st.sampled_from([WRITTEN, 1, 999, OF_BEFORE])), at, at, end, draw(st.integers(0, 1 << 40)),
            name, draw(st.integers(-5, 5)), draw(st.integers(0, 9)), draw(st.integers(0, 1 << 50)), False,
            offset, np.array(draw(numbers), np.int64), np.array(draw(numbers), np.int64) * 1000,
        )  # fmt: skip
        if made.generation == OF_BEFORE:
            made = made._replace(named=at - draw(st.integers(0, min(at, 3))))
        if draw(st.booleans()):
            made = made._replace(is_damaged=True, offset=NOTHING, rows=NOTHING, num_bytes=NOTHING)
        files.append(made)
        at = end + draw(st.integers(0, 3))
    gone = tuple(Replaced(f"{number:020d}.parquet", number) for number in range(draw(st.integers(0, 3))))
    return replace(index_of(segment, files), replaced=gone)


def _fields(index: SegmentIndex) -> dict[str, Any]:
    return {name: getattr(index, name) for name in SegmentIndex.__dataclass_fields__}


def same(one: SegmentIndex, other: SegmentIndex) -> bool:
    return all(np.array_equal(value, getattr(other, name)) for name, value in _fields(one).items())


@given(indexes())
def test_an_index_is_decoded_as_it_was_encoded(index):
    encoded = index_codec.encode(index)
    again = index_codec.decode(encoded, index.segment)
    assert same(again, index)
    assert index_codec.encode(again) == encoded


@given(indexes(), indexes())
def test_files_are_added_behind_and_taken_from_the_end(one, other):
    files = [*one.files(), *other.files()]
    joined = index_of(one.segment, list(one.files())).extended(list(other.files()))
    assert [each[:10] for each in joined.files()] == [each[:10] for each in files]
    assert [each.offset.tolist() for each in joined.files()] == [each.offset.tolist() for each in files]
    assert [each[:10] for each in joined.until(len(one)).files()] == [each[:10] for each in one.files()]


def test_files_are_taken_from_the_beginning():
    files = [file(3, 5), damaged(5, 9), file(9, 12)]
    for offset, left in ((0, 3), (4, 3), (5, 2), (11, 1), (12, 0)):
        assert same(
            index_of(0, files).behind(offset), replace(index_of(0, files[3 - left :]), logs=index_of(0, files).logs)
        )


def test_what_is_regular_costs_nothing():
    """A file of one block every ten seconds for a week."""
    index = index_of(0, [file(number, number + 1) for number in range(SEGMENT)])
    constant = replace(index, size=index.size * 0 + 5, num_bytes=index.num_bytes * 0 + 9)
    assert len(index_codec.encode(constant)) < 20_000
    assert len(index_codec.encode(index)) < 400_000


def test_a_file_is_found_by_any_offset_that_it_covers():
    index = index_of(0, [file(3, 5), file(5, 9), damaged(12, 20)])
    found = [None if (each := index.file_with(offset)) is None else each.first for offset in range(21)]
    assert found == [None] * 3 + [3] * 2 + [5] * 4 + [None] * 3 + [12] * 8 + [None]
    assert index.end == 20


def test_a_file_counts_by_its_name_and_its_offsets():
    index = index_of(0, [file(3, 5), file(5, 9, generation=1)])
    assert index.has(file(3, 5))
    assert not index.has(file(3, 6))
    assert not index.has(file(5, 9)), "what was written there has been packed"
    assert not index.has(file(9, 10))


@given(st.binary(max_size=300), st.booleans())
def test_hostile_bytes_are_refused_in_words(content, has_digest):
    """Also such whose digest is right, and what a hostile index would have to say of itself."""
    head = f"archive_index/1 {hashlib.sha256(content).hexdigest()}\n".encode() if has_digest else b""
    with pytest.raises(FormatError):
        index_codec.decode(head + content, 0)


_COLUMNS = ("generation", "named", "skipped", "length", "size", "log", "lost", "since_ms", "damaged", "blocks", "step")
_NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1) | st.sampled_from([-1, 0, 1, 2, 1 << 61, 1 << 62, SEGMENT])


@given(st.sampled_from(_COLUMNS), st.integers(0, 1), _NUMBERS)
def test_an_index_with_any_number_in_it_is_consistent_or_refused(name, place, number):
    index = index_of(1, [file(SEGMENT + 3, SEGMENT + 4), file(SEGMENT + 4, SEGMENT + 5)])
    _, _, content = index_codec.encode(index).partition(b"\n")
    columns, metadata = tensors.decode(zlib.decompress(content))
    changed = {key: value.copy() for key, value in columns.items()}
    changed[name][place] = number
    hostile = zlib.compress(tensors.encode(changed, metadata))
    encoded = f"archive_index/1 {hashlib.sha256(hostile).hexdigest()}\n".encode() + hostile
    try:
        found = index_codec.decode(encoded, 1)
    except FormatError:
        return
    ends = [SEGMENT]
    for each in found.files():
        assert 0 <= each.named <= each.first < each.next
        assert each.first >= ends[-1]
        assert all(each.first <= offset < each.next for offset in each.offset.tolist())
        ends.append(each.next)


def test_a_bomb_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(index_codec, "_MAX_CONTENT_BYTES", 1 << 16)
    content = zlib.compress(bytes(1 << 24))
    with pytest.raises(FormatError, match="not as long as it says"):
        index_codec.decode(f"archive_index/1 {hashlib.sha256(content).hexdigest()}\n".encode() + content, 0)


def test_an_index_of_another_segment_or_version_or_with_a_changed_byte_is_refused():
    encoded = index_codec.encode(index_of(3, [file(3 * SEGMENT, 3 * SEGMENT + 1)]))
    with pytest.raises(FormatError, match="the index of segment '3'"):
        index_codec.decode(encoded, 4)
    with pytest.raises(FormatError, match="SHA-256"):
        index_codec.decode(encoded[:-1] + bytes([encoded[-1] ^ 1]), 3)
    with pytest.raises(AnotherVersion):
        index_codec.decode(encoded.replace(b"archive_index/1", b"archive_index/2"), 3)


def test_a_damaged_file_ends_where_the_next_one_begins_or_with_its_first_block():
    assert end_of_damaged(5, [3, 5, 9, 12]) == 9
    assert end_of_damaged(12, [3, 5, 9, 12]) == 13


def test_all_columns_of_files_are_named():
    index = index_of(0, [file(3, 5)])
    of_files = {name for name, value in _fields(index).items() if isinstance(value, np.ndarray)}
    assert of_files - {"first_block", "offset", "rows", "num_bytes"} == set(segment_index.FILE_COLUMNS)
