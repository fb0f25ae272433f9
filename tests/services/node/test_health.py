"""The board logs each change once, and sums the state up in one line."""

import asyncio

import pytest

from edged.services.node.health import HealthBoard

pytestmark = pytest.mark.looptime


async def test_a_new_board_is_not_degraded(log_lines):
    board = HealthBoard()
    assert not board.is_degraded
    assert board.summary() == "ok"
    board.recovered("kafka")  # was never degraded
    assert log_lines() == []


async def test_an_outage_is_logged_at_its_start_and_end(log_lines):
    board = HealthBoard()
    for _ in range(5):
        board.degraded("kafka", "no answer")
        await asyncio.sleep(3)
    assert board.is_degraded
    board.recovered("kafka")
    board.recovered("kafka")
    assert not board.is_degraded
    begun, ended = log_lines()
    assert (begun["event"], begun["level"], begun["part"], begun["reason"]) == (
        "health.degraded", "warning", "kafka", "no answer",
    )  # fmt: skip
    assert (ended["event"], ended["part"], ended["degraded_s"]) == ("health.recovered", "kafka", 15.0)


async def test_a_changing_reason_is_logged_once_a_minute_but_shown_at_once(log_lines):
    board = HealthBoard()
    for second in range(121):
        board.degraded("kafka", f"try {second}")
        assert f"(try {second})" in board.summary()
        await asyncio.sleep(1)
    assert [line["reason"] for line in log_lines()] == ["try 0", "try 60", "try 120"]


async def test_the_same_reason_is_not_logged_again_after_a_minute(log_lines):
    board = HealthBoard()
    board.degraded("kafka", "gone")
    await asyncio.sleep(300)
    board.degraded("kafka", "gone")
    assert len(log_lines()) == 1


async def test_the_summary_names_the_longest_outage_first():
    board = HealthBoard()
    board.degraded("kafka", "no answer")
    await asyncio.sleep(150)
    board.degraded("disk", "full")
    assert board.summary() == "degraded: kafka for 2 min (no answer), disk for 0 s (full)"
    board.recovered("kafka")
    await asyncio.sleep(7200)
    assert board.summary() == "degraded: disk for 2 h (full)"
    assert board.is_degraded


async def test_a_part_that_works_for_one_and_fails_for_the_next_is_told_six_times_a_minute(log_lines):
    board = HealthBoard()
    for _ in range(100):
        board.degraded("archive_read", "denied")
        board.recovered("archive_read")
    board.degraded("kafka", "no answer")
    assert [line["part"] for line in log_lines("health.degraded")] == ["archive_read"] * 6 + ["kafka"]
    assert len(log_lines("health.recovered")) == 6

    board.degraded("archive_read", "denied")
    await asyncio.sleep(61)
    board.degraded("archive_read", "denied")
    board.recovered("archive_read")
    assert len(log_lines("health.degraded")) == 8
    assert log_lines()[-1]["degraded_s"] == 61


async def test_what_no_service_waits_for_is_shown_but_excuses_no_stall():
    board = HealthBoard()
    board.degraded("clock", "3 h ahead", awaited=False)
    assert (board.is_degraded, board.is_awaited) == (True, False)
    assert board.summary() == "degraded: clock for 0 s (3 h ahead)"
    board.degraded("kafka", "no answer")
    assert board.is_awaited
    board.recovered("kafka")
    assert not board.is_awaited


async def test_the_summary_is_one_line_of_at_most_80_characters():
    board = HealthBoard()
    board.degraded("kafka", "broker.lan:9092 refused:\nthe certificate is of another authority than the one given")
    board.degraded("archive", "namenode.lan:9870 answers 503")
    summary = board.summary()
    assert len(summary) <= 80
    assert "\n" not in summary
    assert summary.startswith("degraded: kafka for 0 s (broker.lan:9092 refused: the certificate")
