"""A hang is told from waiting, and from an outage."""

from edged.ports import Progress
from edged.services.node.watchdog import StallDetector


def watch(signs, *, excused=frozenset(), allowed_s=3):
    """What is stalled after each of the signs, one a second."""
    standstill = StallDetector(allowed_s)
    return [standstill.stalled({"train": sign}, second, excused=second in excused) for second, sign in enumerate(signs)]


def test_a_service_that_moves_does_not_stall():
    assert not any(watch([Progress(steps, idle=False) for steps in range(20)]))


def test_a_service_may_stand_still_for_as_long_as_allowed():
    stalled = watch([Progress(7, idle=False)] * 6)
    assert stalled == [{}, {}, {}, {}, {"train": 4}, {"train": 5}]


def test_an_idle_service_does_not_stall():
    assert not any(watch([Progress(7, idle=True)] * 20))


def test_the_time_counts_from_when_work_came():
    stalled = watch([Progress(7, idle=True)] * 5 + [Progress(7, idle=False)] * 5)
    assert stalled[-3:] == [{}, {"train": 4}, {"train": 5}]


def test_an_outage_explains_a_standstill_and_the_time_begins_anew_after_it():
    stalled = watch([Progress(7, idle=False)] * 15, excused=range(10))
    assert stalled[:13] == [{}] * 13
    assert stalled[13] == {"train": 4}


def test_a_service_that_moves_again_is_well_again():
    stalled = watch([Progress(7, idle=False)] * 6 + [Progress(8, idle=False)])
    assert stalled[-1] == {}


def test_only_the_service_that_hangs_is_named():
    standstill = StallDetector(3)
    for second in range(6):
        stalled = standstill.stalled(
            {"train": Progress(0, idle=False), "ingest": Progress(second, idle=False)}, second, excused=False
        )
    assert stalled.keys() == {"train"}
