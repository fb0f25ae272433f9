"""Names say where a file belongs, and lead nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.archive import layout, object_name
from edged.domain.archive.layout import OF_BEFORE, SEGMENT, WRITTEN, FileName
from edged.errors import StorageError

_OFFSETS = st.integers(0, (1 << 63) - 2)


@given(_OFFSETS, st.integers(1, 1 << 40), st.sampled_from([OF_BEFORE, WRITTEN, 1, 7, 999_999_999]))
def test_a_files_name_says_again_what_it_was_made_of_and_is_an_objects(first, length, generation):
    end = min(first + length, (1 << 63) - 1)
    name = FileName(first, None if generation == WRITTEN else end, generation)
    text = layout.text_of(name)
    parsed = layout.parsed_of_before if generation == OF_BEFORE else layout.parsed
    assert parsed(text.removeprefix(layout.ABOVE)) == name

    path = layout.path("fashion/_train.pi-a", layout.segment_of(first), text)
    assert object_name.check(path) == path
    assert path.count("/") == (2 if generation == OF_BEFORE else 3)


@pytest.mark.parametrize(
    "name",
    [
        "", "1.parquet", "00000000000000000001.parquet.tmp", "00000000000000000005-00000000000000000005.g1.parquet",
        "00000000000000000005-00000000000000000009.g0.parquet", "00000000000000000005-00000000000000000009.parquet",
        "99999999999999999999.parquet", "index", "\u0660" * 20 + ".parquet",
    ],
    ids=ascii,
)  # fmt: skip
def test_other_names_in_a_segment_are_no_files(name):
    assert layout.parsed(name) is None


def test_segments_are_ranges_of_offsets_in_order_of_their_names():
    assert [layout.segment_of(offset) for offset in (0, SEGMENT - 1, SEGMENT, 5 * SEGMENT)] == [0, 0, 1, 5]
    names = [layout.segment_name(segment) for segment in (3, 0, (1 << 47) - 1)]
    assert layout.segments([*names, "floor", "aside", "7", "9" * 15]) == [0, 3, (1 << 47) - 1]


@pytest.mark.parametrize("bad", ["..", "../etc", "a/b", "", ".hidden", "_train.", "_train.../x", "_other.x", "pi-a\n"])
def test_names_that_could_leave_the_archive_are_refused(bad):
    with pytest.raises(StorageError, match="not names"):
        layout.source_folder("fashion", bad)
    with pytest.raises(StorageError, match="not names"):
        layout.source_folder(bad, "pi-a")
