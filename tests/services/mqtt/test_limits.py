"""Whether the broker would lose samples: told with both numbers, degraded, and over when it is over."""

import asyncio
import contextlib

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.mqtt import MemoryMqttBroker, MemoryMqttSession
from edged.domain.mqtt.limits import NUM_PROBES, BrokerLimits
from edged.domain.mqtt.topics import probe_topic
from edged.domain.topology import Mqtt
from edged.services.mqtt.limits import PART, LimitsCheck

pytestmark = pytest.mark.looptime

MQTT = Mqtt("broker", packet_bytes=50_000)
FITTING = BrokerLimits("5", 50_000)


class Site:
    """A broker in memory with these limits, and the check of it."""

    def __init__(self, limits: BrokerLimits = FITTING) -> None:
        self.health = RecordingHealth()
        self.broker = MemoryMqttBroker(self.health, limits=limits)
        self.limits = LimitsCheck(self.broker, MQTT, "lab", "pi-a", self.health)


async def test_a_broker_that_keeps_and_takes_all_is_not_told_of(log_lines):
    site = Site()
    await site.limits.check()
    assert log_lines("mqtt.limits") == []
    assert site.health.history == []


async def test_what_waits_beyond_a_limit_is_told_with_both_numbers_until_it_is_over(log_lines):
    site = Site()
    site.broker.max_queued = 1_000
    await site.limits.check()
    (line,) = log_lines("mqtt.limits")
    assert (line["limit"], line["has"], line["needs"], line["loses"]) == ("queued packets", 999, NUM_PROBES, True)
    assert f"the broker has 999, the topology needs {NUM_PROBES}" in site.health.reasons[PART]

    site.broker.max_queued = 10_000
    await site.limits.check()
    assert PART not in site.health.reasons


async def test_a_size_that_is_dropped_is_told(log_lines):
    site = Site(BrokerLimits("3.1.1"))
    site.broker.drops_above = 10_000
    await site.limits.check()
    (line,) = log_lines("mqtt.limits")
    assert (line["limit"], line["has"], line["needs"]) == ("packet_bytes", 0, 50_000)
    assert PART in site.health.reasons


async def test_a_size_that_is_refused_is_told_and_degrades_nothing(log_lines):
    site = Site(BrokerLimits("5", 20_000))
    await site.limits.check()
    (line,) = log_lines("mqtt.limits")
    assert (line["has"], line["needs"], line["loses"]) == (20_000, 50_000, False)
    assert site.health.history == []


async def test_the_same_is_not_told_again(log_lines):
    site = Site(BrokerLimits("5"))
    for _ in range(3):
        await site.limits.check()
    (line,) = log_lines("mqtt.limits")
    assert "has" not in line


async def test_without_the_right_to_its_topic_that_is_told_and_the_rest_compared(log_lines):
    site = Site(BrokerLimits("5", 20_000))
    site.broker.forbidden.add(probe_topic("lab", "pi-a"))
    await site.limits.check()
    assert [line["topic"] for line in log_lines("mqtt.probe_failed")] == ["lab/edged/pi-a"]
    assert len(log_lines("mqtt.limits")) == 1


@pytest.mark.parametrize("away_s", [60, 2_000])
async def test_a_broker_that_is_away_in_the_middle_of_a_probe_drops_nothing(log_lines, monkeypatch, away_s):
    site = Site()
    resume = MemoryMqttSession.resume

    def resume_later(session: MemoryMqttSession) -> None:
        site.broker.away = True
        asyncio.get_running_loop().call_later(away_s, setattr, site.broker, "away", False)
        resume(session)

    monkeypatch.setattr(MemoryMqttSession, "resume", resume_later)
    await site.limits.check()
    assert log_lines("mqtt.limits") == []


async def test_a_probe_whose_session_the_broker_forgets_finds_nothing(log_lines, monkeypatch):
    site = Site()
    resume = MemoryMqttSession.resume

    def resume_at_another(session: MemoryMqttSession) -> None:
        resume(session)
        site.broker.forget()

    monkeypatch.setattr(MemoryMqttSession, "resume", resume_at_another)
    await site.limits.check()
    assert log_lines("mqtt.limits") == []
    assert [line["reason"] for line in log_lines("mqtt.probe_failed")] == ["the connection broke"]


async def test_the_check_is_made_when_the_broker_comes_and_again_later(log_lines):
    site = Site(BrokerLimits("5"))
    site.broker.away = True
    task = asyncio.create_task(site.limits.run())
    await asyncio.sleep(100)
    assert log_lines("mqtt.limits") == []

    site.broker.away = False
    await asyncio.sleep(100)
    assert PART in site.health.reasons
    site.broker.limits = FITTING
    await asyncio.sleep(1_000)
    assert PART not in site.health.reasons
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_broker_that_has_passed_is_probed_again_when_it_is_another_one_and_once_a_day(monkeypatch):
    site = Site()
    probes: list[int] = []
    publish_all = MemoryMqttSession.publish_all

    async def noted(self, topic, payloads):
        probes.append(len(payloads))
        await publish_all(self, topic, payloads)

    monkeypatch.setattr(MemoryMqttSession, "publish_all", noted)
    task = asyncio.create_task(site.limits.run())
    await asyncio.sleep(86_000)
    assert probes == [NUM_PROBES]
    site.broker.forget()
    await asyncio.sleep(1_000)
    assert len(probes) == 2
    await asyncio.sleep(85_000)
    assert len(probes) == 2
    await asyncio.sleep(2_000)
    assert len(probes) == 3
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_what_is_left_of_an_earlier_probe_counts_for_nothing(log_lines):
    site = Site()
    site.broker.max_queued = 0
    await site.limits.check()
    site.broker.max_queued = 2_000
    for _ in range(50):
        site.broker.publish(probe_topic("lab", "pi-a"), b"left over")
    site.broker.max_queued = 1_000
    await site.limits.check()
    assert [line["has"] for line in log_lines("mqtt.limits") if line["limit"] == "queued packets"] == [0, 981]
