"""What a file or a record says that it is."""

import pytest

from edged.domain import format_version
from edged.errors import AnotherVersion, FormatError


def test_a_known_version_is_read():
    assert format_version.check("pack/2", "pack/2") == "pack/2"
    assert format_version.check("pack/1", "pack/2", "pack/1") == "pack/1"


@pytest.mark.parametrize("found", ["pack/1", "pack/3", "pack/0042", "pack/9999"])
def test_another_version_is_told_from_damage(found):
    with pytest.raises(AnotherVersion, match=f"not pack/2 but '{found}', of another version"):
        format_version.check(found, "pack/2")


@pytest.mark.parametrize(
    "found", [None, "", "pack", "pack/", "pack/x", "pack/-1", "pack/12345", "packs/1", "x/2", 2, [], "pack/2 "]
)
def test_anything_else_is_damage(found):
    with pytest.raises(FormatError) as raised:
        format_version.check(found, "pack/2")
    assert not isinstance(raised.value, AnotherVersion)
