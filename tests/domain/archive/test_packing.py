"""Neighbours are packed until they are large; each file at most once, and none across what may not be joined."""

from hypothesis import given
from hypothesis import strategies as st

from edged.domain.archive import packing
from edged.domain.archive.packing import groups
from edged.domain.archive.segment_index import IndexedFile
from tests.domain.archive.test_segment_index import damaged, file


def sizes(*of_files: int) -> list[IndexedFile]:
    return [file(number, number + 1, size=size) for number, size in enumerate(of_files)]


def test_files_are_packed_until_they_are_large_together():
    files = sizes(40, 40, 40, 40, 40, 200, 40)
    assert list(groups(files, is_complete=False, packed_bytes=100)) == [(0, 3), (3, 5)]
    assert list(groups(files[:5], is_complete=False, packed_bytes=100)) == [(0, 3)]
    assert list(groups(files[:5], is_complete=True, packed_bytes=100)) == [(0, 3), (3, 5)]


def test_what_is_large_or_alone_stays():
    assert list(groups(sizes(200, 40, 200), is_complete=True, packed_bytes=100)) == []
    assert list(groups([], is_complete=True)) == []


def test_no_file_joins_two_logs_or_reaches_across_a_damaged_one_or_a_hole():
    small = sizes(1, 1, 1, 1, 1, 1)
    small[3:] = [each._replace(log="another") for each in small[3:]]
    assert list(groups(small, is_complete=True)) == [(0, 3), (3, 6)]
    assert list(groups([*sizes(1, 1), damaged(2, 3), file(3, 4), file(4, 5)], is_complete=True)) == [(0, 2), (3, 5)]
    assert list(groups([*sizes(1, 1), file(3, 4), file(4, 5)], is_complete=True)) == [(0, 2), (2, 4)]


def test_a_packed_file_has_a_bounded_number_of_blocks():
    files = [file(at, at + 400) for at in range(0, 4000, 400)]
    found = list(groups(files, is_complete=True))
    assert found == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]
    assert all(sum(len(each.offset) for each in files[a:b]) <= packing.MAX_BLOCKS for a, b in found)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 700), st.sampled_from("ab")), max_size=20), st.booleans())
def test_each_file_is_packed_at_most_once_and_with_its_neighbours_alone(drawn, is_complete):
    files, at = [], 0
    for size, blocks, log in drawn:
        files.append(file(at, at + blocks, size=size, log=log))
        at += blocks
    found = list(groups(files, is_complete=is_complete, packed_bytes=100))
    ends = [0, *(end for _, end in found)]
    assert all(begin >= before and end - begin > 1 for before, (begin, end) in zip(ends, found, strict=False))
    for begin, end in found:
        packed = files[begin:end]
        assert len({each.log for each in packed}) == 1
        assert sum(len(each.offset) for each in packed) <= packing.MAX_BLOCKS
        assert sum(each.size for each in packed[:-1]) < 100
