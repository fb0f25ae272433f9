"""Receipts are read as they were written, whatever the ids are, and whatever else comes on their topic."""

from hypothesis import given
from hypothesis import strategies as st

from edged.domain.mqtt import receipts
from edged.domain.samples.returned import is_id
from edged.domain.samples.sample import REASONS

IDS = st.text(min_size=1, max_size=80).filter(is_id)


@given(st.lists(st.tuples(IDS | st.just("my photo wrong_id"), st.sampled_from(["", *REASONS])), min_size=1))
def test_ids_and_refusals_come_back(given_out):
    payload = "\n".join(receipts.line(*each) for each in given_out).encode()
    assert list(receipts.read(payload)) == given_out


@given(st.binary())
def test_no_bytes_are_more_receipts_than_they_have_lines(payload):
    assert len(list(receipts.read(payload))) == payload.count(b"\n") + 1
