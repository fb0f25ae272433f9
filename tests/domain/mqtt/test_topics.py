"""MQTT topics: the names of a site's, and what a received one says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.mqtt.topics import (
    WRONG_TOPIC,
    PackTopic,
    SampleTopic,
    bridge_client_id,
    device_client_id,
    is_level,
    may_answer_to,
    of_device,
    packs_topic,
    parse,
    predictions_topic,
    probe_topic,
    prober_client_ids,
    receipts_topic,
    samples_topic,
)
from edged.domain.samples.returned import MAX_VALUE_BYTES
from edged.domain.samples.sample import REASONS
from edged.domain.topology import NAME_PATTERN
from edged.errors import RejectedRecord

NAMES = st.from_regex(NAME_PATTERN, fullmatch=True)
LEVELS = st.text(st.characters(exclude_characters="/+#\0", exclude_categories=["Cs"]), min_size=1, max_size=64)
LONG = "é" * (MAX_VALUE_BYTES // 2)


@pytest.mark.parametrize(
    ("topic", "meaning"),
    [
        ("lab/iot/cam", SampleTopic("cam")),
        ("lab/iot/cam/", SampleTopic("cam")),
        ("lab/iot/cam//", SampleTopic("cam")),
        ("lab/iot/cam/ripe", SampleTopic("cam", "ripe")),
        ("lab/iot/cam/ripe/", SampleTopic("cam", "ripe")),
        ("lab/iot/cam/ripe/17", SampleTopic("cam", "ripe", "17")),
        ("lab/iot/cam//ab:17", SampleTopic("cam", None, "ab:17")),
        (f"lab/iot/cam/{LONG}/{LONG}", SampleTopic("cam", LONG, LONG)),
        ("lab/packs/cam", PackTopic("cam")),
    ],
)
def test_a_topic_names_the_device_and_may_name_label_and_id(topic, meaning):
    assert parse("lab", topic) == meaning


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("", "no topic of samples"),
        ("lab", "no topic of samples"),
        ("lab/iot", "no topic of samples"),
        ("lab/iot/", "no topic of samples"),
        ("lab/packs/", "no topic of samples"),
        ("lab/packs/cam/ripe", "no topic of samples"),
        ("other/iot/cam", "no topic of samples"),
        ("/lab/iot/cam", "no topic of samples"),
        ("lab/receipts/cam", "no topic of samples"),
        ("$SYS/broker/version", "no topic of samples"),
        ("lab/iot/cam/red/green/17", "1 level too many"),
        ("lab/iot/cam/a/b/c/d", "2 levels too many"),
        ("lab/iot/cam/+", "the label has a wildcard"),
        ("lab/iot/cam/ripe/#", "the id has a wildcard"),
        (f"lab/iot/cam/{LONG}e", "the label has a wildcard, or more than 256 bytes"),
        (f"lab/iot/cam//{LONG}e", "the id has a wildcard, or more than 256 bytes"),
        ("lab/iot/cam/\udcff", "the label has"),
    ],
)
def test_any_other_topic_is_refused_with_the_reason(topic, reason):
    with pytest.raises(RejectedRecord, match=reason) as refused:
        parse("lab", topic)
    assert refused.value.reason == WRONG_TOPIC
    assert WRONG_TOPIC in REASONS


@given(site=NAMES, device=NAMES, label=st.just("") | LEVELS, sample_id=st.just("") | LEVELS)
def test_what_a_device_publishes_to_says_what_it_was_made_of(site, device, label, sample_id):
    topic = samples_topic(site, device, label, sample_id)
    assert parse(site, topic) == SampleTopic(device, label or None, sample_id or None)
    assert parse(site, packs_topic(site, device)) == PackTopic(device)


@given(topic=st.text(st.sampled_from("lab/iotpckm+#\0\udcffé")) | st.text())
def test_no_topic_is_more_than_refused(topic):
    for candidate in (topic, f"lab/iot/{topic}", f"lab/iot/cam/{topic}"):
        try:
            meaning = parse("lab", candidate)
        except RejectedRecord:
            continue
        assert "/" not in meaning.device
        assert all(value is None or is_level(value) for value in meaning[1:])


@given(site=NAMES, names=st.lists(NAMES, min_size=2, max_size=2, unique=True))
def test_topics_of_different_purposes_or_nodes_differ(site, names):
    made = [
        make(site, name)
        for name in names
        for make in (samples_topic, packs_topic, receipts_topic, predictions_topic, probe_topic)
    ]
    assert len(set(made)) == len(made)


@given(st.lists(NAMES, min_size=2, max_size=2), st.lists(NAMES, min_size=2, max_size=2))
def test_client_ids_are_as_different_as_what_they_are_of(these, others):
    kinds = (bridge_client_id, device_client_id, *(lambda *of, i=i: prober_client_ids(*of)[i] for i in (0, 1)))
    for make in kinds:
        assert (make(*these) == make(*others)) == (these == others)
    assert bridge_client_id(*these) not in {device_client_id(*others), *prober_client_ids(*others)}


def test_the_filters_of_a_device_cover_all_that_it_publishes_to():
    assert of_device("lab", "cam") == ("lab/iot/cam/#", "lab/packs/cam")


@pytest.mark.parametrize(
    ("topic", "may"),
    [
        ("lab/predictions/cam", True),
        ("lab/predictions/cam/answers", True),
        ("lab/predictions/cam/answers/17", True),
        ("lab/predictions/cam/", False),
        ("lab/predictions/camera", False),
        ("lab/predictions/mast", False),
        ("lab/predictions/cam/+", False),
        ("lab/predictions/cam/#", False),
        ("lab/predictions/cam/a\0", False),
        ("lab/predictions/cam/\udcff", False),
        (f"lab/predictions/cam/{LONG}e", False),
        ("", False),
    ],
)
def test_predictions_are_published_to_the_devices_own_topic_or_below_it(topic, may):
    assert may_answer_to("lab", "cam", topic) is may
