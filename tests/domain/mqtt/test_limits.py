"""What a broker says and does, beside what the topology needs."""

import pytest

from edged.domain.mqtt.limits import (
    LARGEST_ENVELOPE,
    NUM_PROBES,
    SESSION_EXPIRY_S,
    BrokerLimits,
    Probed,
    Shortfall,
    from_connack,
    from_probe,
)
from edged.domain.mqtt.topics import may_answer_to, samples_topic
from edged.domain.samples.returned import MAX_VALUE_BYTES
from edged.domain.topology import Mqtt

MQTT = Mqtt("broker", packet_bytes=100_000)


def told(shortfalls):
    return [(each.limit, each.has, each.needs, each.loses) for each in shortfalls]


@pytest.mark.parametrize(
    ("limits", "shortfalls"),
    [
        (BrokerLimits("5", 100_000, 20, SESSION_EXPIRY_S), []),
        (BrokerLimits("5", 100_000), []),
        (BrokerLimits("3.1.1"), []),
        (BrokerLimits("5"), [("packet_bytes", None, 100_000, True)]),
        (BrokerLimits("5", 100_001), [("packet_bytes", 100_001, 100_000, True)]),
        (BrokerLimits("5", 99_999), [("packet_bytes", 99_999, 100_000, False)]),
        (BrokerLimits("5", 100_000, session_expiry_s=60), [("session_expiry", 60, SESSION_EXPIRY_S, True)]),
        (BrokerLimits("5", 100_000, maximum_qos=0), [("maximum_qos", 0, 1, True)]),
        (BrokerLimits("5", None, None, 0, 0), [
            ("packet_bytes", None, 100_000, True), ("session_expiry", 0, SESSION_EXPIRY_S, True),
            ("maximum_qos", 0, 1, True),
        ]),
    ],
)  # fmt: skip
def test_what_a_broker_says_is_compared(limits, shortfalls):
    assert told(from_connack(limits, MQTT)) == shortfalls


@pytest.mark.parametrize(
    ("probed", "shortfalls"),
    [
        (Probed(NUM_PROBES, has_large=True), []),
        (Probed(1_020, has_large=True), [("queued packets", 1_020, NUM_PROBES, True)]),
        (Probed(NUM_PROBES, has_large=False), [("packet_bytes", 0, 100_000, True)]),
    ],
)
def test_what_a_broker_did_with_a_probe_is_judged(probed, shortfalls):
    assert told(from_probe(probed, MQTT)) == shortfalls


def test_both_numbers_are_shown():
    assert str(Shortfall("packet_bytes", 5, 7, "it hurts")) == (
        "packet_bytes: the broker has 5, the topology needs 7: it hurts"
    )
    assert "the broker has no limit" in str(Shortfall("packet_bytes", None, 7, "it hurts"))


def test_the_envelope_holds_the_longest_names_and_values():
    name, value = "n" * 64, "v" * MAX_VALUE_BYTES
    topic = samples_topic(name, name, value, value)
    answer = f"{name}/predictions/{name}/"
    answer += "a" * MAX_VALUE_BYTES
    assert may_answer_to(name, name, answer)
    properties = len("sampled_ms") + 18 + len("receipt") + MAX_VALUE_BYTES + len(answer) + MAX_VALUE_BYTES + 4 * 5
    assert len(topic) + properties + 32 <= LARGEST_ENVELOPE
