"""A sample's address is printed and read back the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.samples.address import ArchivedAddress, DeviceAddress, parse
from edged.errors import FormatError

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
NUMBERS = st.integers(0, (1 << 63) - 1)


@given(st.builds(ArchivedAddress, NAMES, NAMES | NAMES.map("_train.{}".format), NUMBERS, st.none() | NUMBERS))
def test_an_archived_samples_address_is_read_back(address):
    assert parse(str(address)) == address


@given(st.builds(DeviceAddress, NAMES, NAMES, NUMBERS, NUMBERS))
def test_a_devices_address_is_read_back(address):
    assert parse(str(address)) == address


def test_the_forms_are_those_that_the_pages_show():
    assert parse("fashion/pi-a/120/7") == ArchivedAddress("fashion", "pi-a", 120, 7)
    assert parse("fashion/pi-a/120") == ArchivedAddress("fashion", "pi-a", 120, None)
    assert parse("fashion/@cam-01/0/4711") == DeviceAddress("fashion", "cam-01", 0, 4711)


@pytest.mark.parametrize(
    "text",
    [
        "", "fashion", "fashion/pi-a", "fashion/pi-a/", "fashion//1", "fashion/pi-a/1/2/3", "fashion/pi-a/x",
        "fashion/pi-a/-1", "fashion/pi-a/1_0", "fashion/pi-a/1.5", "fashion/pi-a/٣", f"fashion/pi-a/{1 << 63}",
        "fashion/@cam-01/0", "fashion/@/0/1", "fashion/pi-a/" + "9" * 5000, "f" * 1000 + "/pi-a/1",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_the_forms(text):
    with pytest.raises(FormatError, match="STREAM/SOURCE/OFFSET"):
        parse(text)
