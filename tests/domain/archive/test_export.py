"""Names of what is given to other programs."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.archive.export import is_folder_name, name_of, split_of

sources = st.from_regex(r"(_train\.|_test\.)?[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)
addresses = st.tuples(sources, st.integers(0, (1 << 63) - 1), st.integers(0, 255))


@given(addresses, addresses)
def test_no_two_samples_have_one_name(one, other):
    assert (name_of(*one) == name_of(*other)) == (one == other)


def test_names_that_dots_and_hyphens_could_confuse_differ():
    assert len({name_of(source, 1, 2) for source in ("a.b", "a-b", "a", "a-000000000001-002")}) == 4


@given(st.text(max_size=300) | st.sampled_from(["..", ".", "../x", "a/b", "a\\b", "-rf", ".x", "a\n", "\0", "\ud800"]))
def test_a_label_that_is_a_folders_name_stays_inside(label):
    if is_folder_name(label):
        path = PurePosixPath("/out/train") / label
        assert (path.parent, path.name) == (PurePosixPath("/out/train"), label)
        assert "\0" not in label


@pytest.mark.parametrize("label", ["", ".", "..", "../x", "a/b", "a\\b", "-rf", ".x", "a\n", "\0", "\ud800", "x" * 256])
def test_labels_that_would_lead_astray_are_no_folders(label):
    assert not is_folder_name(label)


def test_imported_test_sets_are_apart():
    assert [split_of(each) for each in ("_test.birds", "_train.birds", "pi-a")] == ["test", "train", "train"]
