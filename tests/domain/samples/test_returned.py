"""What comes back with a prediction: exactly what the device gave, within its bounds, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.samples.returned import MAX_VALUE_BYTES, returned, sample_id

ID, TOPIC, CORRELATION = "edged-sample-id", "edged-response-topic", "edged-correlation"
NAMES = st.sampled_from([ID, TOPIC, CORRELATION, "edged-sampled-ms", "edged-id", ""])


def test_what_the_device_gave_comes_back_and_other_headers_do_not():
    headers = [("edged-id", b"x"), (CORRELATION, b"\x00\xff"), ("edged-sampled-ms", b"1"), (ID, b"a:7"), (TOPIC, b"t")]
    assert returned(headers) == ((ID, b"a:7"), (TOPIC, b"t"), (CORRELATION, b"\x00\xff"))
    assert returned([("edged-sampled-ms", b"1")]) == ()


def test_of_one_name_the_first_comes_back():
    assert returned([(ID, b"7"), (ID, b"8")]) == ((ID, b"7"),)


def test_what_is_too_long_does_not_come_back():
    headers = [(ID, b"7" * (MAX_VALUE_BYTES + 1)), (TOPIC, b"t" * MAX_VALUE_BYTES)]
    assert returned(headers) == ((TOPIC, b"t" * MAX_VALUE_BYTES),)
    assert sample_id(headers) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"17", "17"),
        ("photo 1 ü".encode(), "photo 1 ü"),
        *((each, "") for each in (b"\xff", b"", b"a\nb", b"a\tb", b"\x7f")),
    ],
)
def test_an_id_is_text_of_one_line(value, text):
    assert sample_id([(ID, value)]) == text
    assert sample_id([]) == ""


@given(st.lists(st.tuples(NAMES, st.binary(max_size=2 * MAX_VALUE_BYTES))))
def test_whatever_the_headers_what_comes_back_is_bounded_and_among_them(headers):
    found = returned(headers)
    assert set(found) <= set(headers)
    assert sum(len(value) for _name, value in found) <= 3 * MAX_VALUE_BYTES
    assert len(sample_id(headers).encode()) <= MAX_VALUE_BYTES
