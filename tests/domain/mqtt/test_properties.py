"""What stands beside a payload becomes headers, within bounds, and may not say two things."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.mqtt.properties import MAX_PROPERTIES, described, wants_receipt
from edged.domain.mqtt.topics import SampleTopic
from edged.domain.samples.returned import MAX_VALUE_BYTES
from edged.errors import RejectedRecord


def test_a_bare_packet_is_an_unlabelled_sample_without_an_id():
    assert described(SampleTopic("cam"), (), "", b"") == (None, (), "", False)


@pytest.mark.parametrize(
    ("topic", "user"),
    [
        (SampleTopic("cam", "rose", "7"), ()),
        (SampleTopic("cam"), (("label", "rose"), ("id", "7"))),
        (SampleTopic("cam", "rose", "7"), (("id", "7"), ("label", "rose"), ("label", "rose"))),
    ],
)
def test_label_and_id_come_from_the_topic_or_from_properties(topic, user):
    said = described(topic, user, "", b"")
    assert said == (b"rose", (("edged-sample-id", b"7"),), "7", False)


def test_the_other_properties_that_edged_reads_become_headers_and_the_rest_is_the_devices_own():
    user = (("sampled_ms", "12"), ("receipt", ""), ("colour", "blue"))
    said = described(SampleTopic("cam"), user, "site/predictions/cam/x", b"\0\1")
    assert said.wants_receipt
    assert dict(said.headers) == {
        "edged-sampled-ms": b"12",
        "edged-response-topic": b"site/predictions/cam/x",
        "edged-correlation": b"\0\1",
    }
    assert wants_receipt(user)
    assert not wants_receipt(())


LONG = "x" * (MAX_VALUE_BYTES + 1)


@pytest.mark.parametrize(
    ("topic", "user", "response_topic", "correlation"),
    [
        (SampleTopic("cam", "rose"), (("label", "lily"),), "", b""),
        (SampleTopic("cam", None, "7"), (("id", "8"),), "", b""),
        (SampleTopic("cam"), (("id", "8"), ("id", "9")), "", b""),
        (SampleTopic("cam"), (("label", LONG),), "", b""),
        (SampleTopic("cam"), (("x" * 65, ""),), "", b""),
        (SampleTopic("cam"), (("a", "b"),) * (MAX_PROPERTIES + 1), "", b""),
        (SampleTopic("cam"), (), LONG, b""),
        (SampleTopic("cam"), (), "", LONG.encode()),
    ],
)
def test_what_is_too_long_or_says_two_things_is_refused(topic, user, response_topic, correlation):
    with pytest.raises(RejectedRecord, match="wrong_property"):
        described(topic, user, response_topic, correlation)


@pytest.mark.parametrize("sample_id", ["1\n2", "1\t2", "\u2028", "\x7f"])
@pytest.mark.parametrize("in_topic", [True, False])
def test_an_id_that_is_no_line_of_a_receipt_is_refused(sample_id, in_topic):
    topic = SampleTopic("cam", None, sample_id if in_topic else None)
    with pytest.raises(RejectedRecord, match="wrong_id"):
        described(topic, () if in_topic else (("id", sample_id),), "", b"")
    assert described(SampleTopic("cam"), (("id", "photo 1 é"),), "", b"").sample_id == "photo 1 é"


@given(st.lists(st.tuples(st.text(), st.text()), max_size=30), st.text(), st.binary())
def test_headers_are_bounded_whatever_stands_beside(user, response_topic, correlation):
    try:
        said = described(SampleTopic("cam"), user, response_topic, correlation)
    except RejectedRecord:
        return
    assert len(said.headers) <= 4
    assert all(len(value) <= MAX_VALUE_BYTES for _name, value in said.headers)
