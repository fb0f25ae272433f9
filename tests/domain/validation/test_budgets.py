"""Budgets of an edge."""

# ruff: noqa: E501 - one case, one line, or two

from dataclasses import replace

import pytest

from edged.domain.topology import MIB, Cache, Mqtt
from edged.domain.validation import rules
from tests.support.valid_topology import VALID, problems, with_device, with_edge


@pytest.mark.parametrize(
    ("topology", "path", "message"),
    [
        (with_edge(prefetch=2 * MIB), "edges[0].prefetch", "at least 4.0 MiB: two messages of an epoch"),
        (with_edge(cache=Cache(memory=3 * MIB, disk=4 * MIB)), "edges[0].cache",
         "memory and disk together hold 7.0 MiB, less than one window of an epoch, half of prefetch: 8.0 MiB"),
        (with_edge(cache=Cache(memory=200 * MIB)), "edges[0].memory_limit",
         "the daemon needs about 294.1 MiB (base 76.0 MiB + model 0.1 MiB + prefetch 16.0 MiB + cache 202.0 MiB), the limit is 256.0 MiB"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_reported_once_at_its_place(topology, path, message):
    assert problems(topology) == [(path, message)]


def test_the_windows_of_mqtt_devices_are_held_beside_the_rest():
    topology = replace(with_device(transport="mqtt"), mqtt=Mqtt("localhost", window=160))
    (finding,) = rules.problems(topology)
    assert finding.path == "edges[0].memory_limit"
    assert "cache 26.0 MiB + mqtt 161.0 MiB), the limit is 256.0 MiB" in finding.message
    assert finding.suggestion == "raise memory_limit to 280MiB, or make mqtt.window or mqtt.packet_bytes smaller"

    assert rules.problems(replace(topology, mqtt=Mqtt("localhost", window=64))) == []


def test_prefetch_holds_two_samples():
    large = replace(VALID.streams[0], shape=(4096, 4096, 1))
    topology = replace(with_edge(prefetch=31 * MIB), streams=(large, VALID.streams[1]))

    assert ("edges[0].prefetch", 'at least two samples of stream "tiles", 32.0 MiB') in problems(topology)


@pytest.mark.parametrize("cache", [Cache(0, 0), Cache(8 * MIB, 0), Cache(0, 8 * MIB), Cache(4 * MIB, 4 * MIB)])
def test_a_cache_is_absent_or_holds_a_window(cache):
    assert problems(with_edge(cache=cache)) == []


def test_the_suggestion_for_a_small_cache_is_the_size_that_it_needs():
    [finding] = rules.problems(with_edge(cache=Cache(0, 1 * MIB), prefetch=15 * MIB))
    assert finding.suggestion == "give it 8MiB, make prefetch smaller, or set both to 0"
