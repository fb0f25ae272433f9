"""The broker's clock is known from its answers, and this machine's wrong one is told in words until it is right."""

import asyncio

import pytest

from edged.adapters.kafka.broker_clock import BrokerClock, duration
from edged.adapters.memory.health import RecordingHealth

pytestmark = pytest.mark.looptime

NOW_S = 1_800_000_000.0
DAY_S = 86_400


class World:
    """A broker whose clock is right, and a machine whose clock is `ahead_s`."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.health = RecordingHealth()
        self.clock = BrokerClock(self.health, lambda: self.true_s() + self.ahead_s)

    def true_s(self) -> float:
        return NOW_S + asyncio.get_running_loop().time()

    async def write(self, on_its_way_s: float = 0.01, back_s: float = 0.01) -> str:
        """A write, and what health says of the clock after it."""
        sent_s = asyncio.get_running_loop().time()
        await asyncio.sleep(on_its_way_s)
        appended_ms = int(1000 * self.true_s())
        await asyncio.sleep(back_s)
        self.clock.answered(appended_ms, sent_s)
        return self.health.reasons.get("clock", "")


@pytest.mark.parametrize(
    ("ahead_s", "words"),
    [
        (-NOW_S, "57 years behind"),
        (-10 * DAY_S, "10 days behind"),
        (-301, "5 min behind"),
        (-200, ""),
        (0, ""),
        (200, ""),
        (302, "5 min ahead of"),
        (3 * 3600, "3 h ahead of"),
        (3652.5 * DAY_S, "10 years ahead of"),
    ],
)
async def test_a_clock_that_is_minutes_off_is_told_in_words_and_no_other(ahead_s, words):
    world = World()
    world.ahead_s = ahead_s
    reason = await world.write()
    assert reason.startswith(f"this machine's clock is {words} the broker's" if words else "")
    assert bool(reason) == bool(words)


async def test_it_recovers_once_the_clock_is_right():
    world = World()
    for ahead_s in (3 * 3600, -10 * DAY_S, 0, 0):
        world.ahead_s = ahead_s
        await world.write()
    assert world.health.history == [("degraded", "clock"), ("recovered", "clock")]


@pytest.mark.parametrize(("on_its_way_s", "back_s"), [(600, 0.1), (0.1, 600)])
async def test_a_slow_answer_is_no_wrong_clock(on_its_way_s, back_s):
    world = World()
    assert await world.write(on_its_way_s, back_s) == ""


async def test_the_brokers_time_goes_on_whatever_becomes_of_this_machines_clock():
    world = World()
    assert world.clock.now_ms() is None
    await world.write(back_s=0)
    for ahead_s in (-NOW_S, 3652 * DAY_S, 0):
        world.ahead_s = ahead_s
        await asyncio.sleep(1000)
        assert world.clock.now_ms() == pytest.approx(1000 * world.true_s(), abs=50)
    world.clock.forget()
    assert world.clock.now_ms() is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(300, "5 min"), (7199, "120 min"), (7200, "2 h"), (172_800, "2 days"), (1.8e9, "57 years")]
)
def test_a_duration_is_in_the_unit_of_which_there_are_two(seconds, text):
    assert duration(seconds) == text
