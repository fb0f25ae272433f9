"""An entry decodes as it was, for its own key; everything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.cache.entry import MAX_PAYLOAD_BYTES, Entry, SampleKey, decode, encode
from edged.domain.samples.sample import CODECS
from edged.errors import FormatError

KEY = SampleKey("pi-a", 17, 3)
ENTRIES = st.builds(Entry, st.binary(max_size=300), st.sampled_from(CODECS), st.none() | st.text(max_size=20))


@given(ENTRIES, st.booleans())
def test_an_entry_is_decoded_as_it_was(entry, compress):
    assert decode(KEY, encode(KEY, entry, compress=compress)) == entry


def test_an_empty_label_is_not_a_missing_one():
    assert decode(KEY, encode(KEY, Entry(b"x", "raw", ""))).label == ""
    assert decode(KEY, encode(KEY, Entry(b"x", "raw", None))).label is None


@given(ENTRIES, st.data())
def test_a_changed_byte_is_refused(entry, data):
    blob = bytearray(encode(KEY, entry))
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FormatError):
        decode(KEY, bytes(blob))


@given(ENTRIES, st.data())
def test_a_torn_entry_is_refused(entry, data):
    blob = encode(KEY, entry)
    with pytest.raises(FormatError):
        decode(KEY, blob[: data.draw(st.integers(0, len(blob) - 1))])


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(blob):
    with pytest.raises(FormatError):
        decode(KEY, blob)


@pytest.mark.parametrize("other", [KEY._replace(source="pi-b"), KEY._replace(offset=18), KEY._replace(row=4)])
def test_an_entry_is_refused_under_another_key(other):
    with pytest.raises(FormatError):
        decode(other, encode(KEY, Entry(b"x" * 9, "raw", "cat")))


def test_payloads_are_compressed_where_that_saves_a_tenth():
    flat, noise = Entry(bytes(784), "raw", "a"), Entry(bytes(range(256)) * 3, "raw", "a")
    assert len(encode(KEY, flat, compress=True)) < 100
    short = Entry(bytes(range(256)), "raw", "a")
    assert len(encode(KEY, short, compress=True)) == len(encode(KEY, short))
    assert len(encode(KEY, noise)) > 768


def test_too_large_payloads_and_labels_are_refused():
    with pytest.raises(FormatError, match="too large"):
        encode(KEY, Entry(bytes(MAX_PAYLOAD_BYTES + 1), "raw", None))
    with pytest.raises(FormatError, match="too large"):
        encode(KEY, Entry(b"", "raw", "a" * 70_000))
