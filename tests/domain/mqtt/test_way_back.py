"""The way of a prediction to its device: below the device's own topic alone, and never for longer than an hour."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.mqtt.topics import predictions_topic
from edged.domain.mqtt.way_back import LIFETIME_S, Addressed, addressed, remaining_s

OWN = "lab/predictions/cam"
NOW_MS = 1_700_000_000_000


def to(topic: bytes) -> Addressed:
    return addressed("lab", "cam", [("edged-response-topic", topic)])


def test_without_headers_it_goes_to_the_devices_own_topic():
    assert addressed("lab", "cam", [("edged-id", b"x")]) == Addressed(OWN)


def test_what_the_device_gave_goes_with_it():
    headers = [("edged-sample-id", b"a:7"), ("edged-correlation", b"\x00\xff")]
    assert addressed("lab", "cam", headers) == Addressed(OWN, b"\x00\xff", "a:7")


@pytest.mark.parametrize("sample_id", [b"a\0b", b"a\x1fb", b"\xff"])
def test_an_id_that_a_broker_would_end_the_connection_for_is_left_out(sample_id):
    assert addressed("lab", "cam", [("edged-sample-id", sample_id)]) == Addressed(OWN)


@pytest.mark.parametrize("topic", [OWN, f"{OWN}/x", f"{OWN}/x/7", f"{OWN}/grün"])
def test_a_response_topic_below_the_own_one_counts(topic):
    assert to(topic.encode()) == Addressed(topic)


@pytest.mark.parametrize(
    "topic",
    [
        b"lab/predictions/cam-2",
        b"lab/predictions/camera/x",
        b"lab/iot/cam",
        b"lab/predictions/cam/",
        b"lab/predictions/cam/+",
        b"lab/predictions/cam/#",
        b"lab/predictions/cam/\xff",
        b"lab/predictions/cam/x\x00",
        b"lab/predictions/cam/x\x1b",
        b"lab/predictions/cam/" + b"/x" * 100,
        b"$SYS/broker",
    ],
)
def test_any_other_response_topic_is_ignored_and_told(topic):
    assert to(topic) == Addressed(OWN, ignored=topic.decode(errors="replace"))


@given(st.binary(max_size=300))
def test_no_response_topic_leads_elsewhere(topic):
    found = to(topic).topic
    assert found == predictions_topic("lab", "cam") or found.startswith(f"{OWN}/")
    assert not set(found) & set("+#\0")


@pytest.mark.parametrize(
    ("age_ms", "left_s"),
    [
        (0, LIFETIME_S),
        (-5000, LIFETIME_S),
        (1000, LIFETIME_S - 1),
        (LIFETIME_S * 1000 - 1, 1),
        (LIFETIME_S * 1000, None),
        (NOW_MS, None),
    ],
)
def test_the_broker_keeps_it_for_what_is_left_of_an_hour(age_ms, left_s):
    assert remaining_s(NOW_MS - age_ms, NOW_MS) == left_s


def test_one_of_an_unknown_time_is_new():
    assert remaining_s(-1, NOW_MS) == LIFETIME_S
