"""A hang is distinguished from waiting for work and from an outage."""

from edged.adapters.memory.notifier import RecordingNotifier
from edged.ports import Progress
from edged.services.node.watchdog import StallDetector, Watchdog


def watch(signs, *, suspended=frozenset(), allowed_s=3):
    """What is stalled after each of the signs, one a second."""
    detector = StallDetector(allowed_s)
    return [
        detector.stalled({"train": sign}, second, suspended=second in suspended) for second, sign in enumerate(signs)
    ]


def test_a_service_that_progresses_is_not_stalled():
    assert not any(watch([Progress(steps, idle=False) for steps in range(20)]))


def test_a_service_without_progress_is_stalled_after_the_allowed_time():
    stalled = watch([Progress(7, idle=False)] * 6)
    assert stalled == [{}, {}, {}, {}, {"train": 4}, {"train": 5}]


def test_an_idle_service_is_not_stalled():
    assert not any(watch([Progress(7, idle=True)] * 20))


def test_the_time_counts_from_the_arrival_of_work():
    stalled = watch([Progress(7, idle=True)] * 5 + [Progress(7, idle=False)] * 5)
    assert stalled[-3:] == [{}, {"train": 4}, {"train": 5}]


def test_an_outage_suspends_detection_and_the_time_restarts_after_it():
    stalled = watch([Progress(7, idle=False)] * 15, suspended=range(10))
    assert stalled[:13] == [{}] * 13
    assert stalled[13] == {"train": 4}


def test_a_service_that_progresses_again_is_no_longer_stalled():
    stalled = watch([Progress(7, idle=False)] * 6 + [Progress(8, idle=False)])
    assert stalled[-1] == {}


def test_only_the_stalled_service_is_named():
    detector = StallDetector(3)
    for second in range(6):
        stalled = detector.stalled(
            {"train": Progress(0, idle=False), "ingest": Progress(second, idle=False)}, second, suspended=False
        )
    assert stalled.keys() == {"train"}


def test_the_watchdog_is_fed_until_a_service_stalls_and_each_stall_is_logged_once(log_lines):
    notifier = RecordingNotifier()
    watchdog = Watchdog(notifier, StallDetector(3))
    for second in range(8):
        watchdog.feed({"train": Progress(7, idle=False)}, second, suspended=False)
    assert notifier.sent == [("watchdog", None)] * 4
    assert [line["service"] for line in log_lines("res.stalled")] == ["train"]
