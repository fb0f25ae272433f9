"""Every line on stderr is one JSON object of the schema, whichever code logged it; and none has secrets."""

import asyncio
import contextlib
import dataclasses
import gc
import io
import json
import logging
import math
import os
import re
import socket
import subprocess
import sys
import warnings

import numpy as np
import pytest
import structlog
from jsonschema import Draft202012Validator

from edged.domain.topology import Kafka, Security, Topology
from edged.events import EVENTS, json_schema
from edged.log import Throttle, ThrottledLog, log_crash, logger
from edged.log.output import ForeignLines, ResourcesForPeople, configure, set_level


@pytest.fixture(autouse=True, scope="module")
def no_garbage_of_others():
    """What tests of other modules have left is collected now, not while one here looks at what was logged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture
def stream(log_lines):
    """A stream to log to; `log_lines` restores the set-up afterwards."""
    return io.StringIO()


def set_up(stream, **settings):
    configure(node="pi-a", tier="edge", run_id="r1", stream=stream, **settings)


def test_a_line_is_one_json_object_that_begins_with_time_level_and_event(stream):
    set_up(stream)
    logger().warning("health.degraded", part="kafka", reason="no answer\nfrom broker")
    text = stream.getvalue()
    assert text.count("\n") == 1
    line = json.loads(text)
    assert list(line) == ["ts", "level", "event", "node", "tier", "run_id", "part", "reason"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
    assert (line["level"], line["node"], line["tier"], line["run_id"]) == ("warning", "pi-a", "edge", "r1")


def test_the_timestamp_is_utc(stream, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.0129)
    set_up(stream)
    logger().info("life.ready", degraded=False)
    assert json.loads(stream.getvalue())["ts"] == "2023-11-14T22:13:20.012Z"


def test_a_text_from_outside_is_truncated(log_lines):
    logger().error("archive.rejected", topic="t", offset=1, reason="x" * 1_000_000, kept_as="", suppressed=0)
    [line] = log_lines("archive.rejected")
    assert len(line["reason"]) == 16_000


def test_lines_below_the_level_are_left_out(stream):
    set_up(stream, level="warning")
    logger().info("life.ready", degraded=False)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("number", [math.nan, math.inf, np.float32("nan")])
def test_a_number_that_json_does_not_have_is_null(log_lines, number):
    logger().info("health.recovered", part="kafka", degraded_s=number)
    assert log_lines()[0]["degraded_s"] is None
    Draft202012Validator(json_schema()).validate(log_lines()[0])


def test_numpy_numbers_are_plain_numbers(log_lines):
    logger().info("health.recovered", part="kafka", degraded_s=np.float32(0.5))
    logger().info("res.memory_high", rss_bytes=np.int64(7), limit_bytes=5)
    assert [log_lines()[0]["degraded_s"], log_lines()[1]["rss_bytes"]] == [0.5, 7]


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("life.unheard_of", {}),
        ("life.ready", {}),
        ("life.ready", {"degraded": True, "payload": "x"}),
        ("life.ready", {"degraded": "yes"}),
        ("res.memory_high", {"rss_bytes": True, "limit_bytes": 5}),
    ],
)
def test_a_strict_log_refuses_what_is_not_in_the_schema(log_lines, event, fields):
    with pytest.raises((KeyError, ValueError)):
        logger().info(event, **fields)
    assert log_lines() == []


def test_the_journal_gets_the_priority_before_each_line(stream, tmp_path, monkeypatch):
    with (tmp_path / "journal").open("w+") as journal:
        status = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        set_up(journal)
        logger().error("life.notify_failed", err="x")
        journal.seek(0)
        assert journal.read().startswith('<3>{"ts":')
    set_up(stream)  # another stream, though the journal is there: no priority
    logger().error("life.notify_failed", err="x")
    assert stream.getvalue().startswith('{"ts":')


def test_the_journal_can_leave_the_series_out_by_its_priority(tmp_path, monkeypatch):
    """`journalctl -p info`: all but the debug lines, which the series is to the journal alone."""
    with (tmp_path / "journal").open("w+") as journal:
        status = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        set_up(journal)
        optional = EVENTS["res.sample"].optional
        values = {name: kind(1) for name, kind in EVENTS["res.sample"].fields.items() if name not in optional}
        logger().info("res.sample", **values)
        logger().info("life.ready", degraded=False)
        journal.seek(0)
        series, ready = journal.read().splitlines()
    assert series.startswith("<7>")
    assert json.loads(series[3:])["level"] == "info"
    assert ready.startswith("<6>")


def test_the_level_may_change_while_the_log_is_in_use(log_lines):
    log = logger()
    set_level("error")
    logger().warning("life.notify_failed", err="x")
    set_level("debug")
    logger().info("life.ready", degraded=False)
    log.info("life.ready", degraded=True)  # one that was made before goes by the level that was then
    assert [line["event"] for line in log_lines()] == ["life.ready", "life.ready"]


def test_people_get_readable_lines_and_tracebacks(stream, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    set_up(stream, pretty=True)
    logger().info("health.degraded", part="kafka", reason="gone")
    log_crash(RuntimeError("broken"))
    first, *others = stream.getvalue().splitlines()
    assert re.match(r"\d\d:\d\d:\d\d \[info +\] health.degraded +node=pi-a tier=edge run_id=r1 part=kafka", first)
    assert others[-1] == "RuntimeError: broken"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("pretty", [False, True])
def test_no_text_is_lost_or_raises_whatever_the_terminals_encoding(log_lines, tmp_path, encoding, pretty):
    """Labels of any script, a file's name that is no UTF-8, and escape sequences of a terminal."""
    path = tmp_path / "log"
    with path.open("w", encoding=encoding) as terminal:
        set_up(terminal, pretty=pretty)
        logger().warning("health.degraded", part="kafka", reason="\u732b \udce9 \x1b[31m")
    text = path.read_text(encoding)
    assert text.count("\n") == 1
    assert "\x1b[31m" not in text
    shown = text if pretty else json.loads(text)["reason"]
    assert "\\udce9" in shown
    assert ("\u732b" if encoding == "utf-8" or not pretty else "\\u732b") in shown


def test_a_crash_is_logged_with_its_traceback(log_lines):
    def broken():
        raise ValueError("three is not four")

    try:
        broken()
    except ValueError as error:
        log_crash(error)
    (line,) = log_lines("life.crashed")
    assert (line["level"], line["err"], line["err_type"]) == ("error", "three is not four", "ValueError")
    assert "in broken\n" in line["traceback"]
    assert line["traceback"].endswith("ValueError: three is not four\n")


def test_a_crashed_group_is_logged_by_the_errors_inside_it(log_lines):
    log_crash(ExceptionGroup("tasks", [ExceptionGroup("inner", [OSError("disk")]), ValueError("value")]))
    (line,) = log_lines()
    assert (line["err"], line["err_type"]) == ("disk; value", "OSError, ValueError")


def test_a_long_traceback_keeps_its_end(log_lines):
    log_crash(RuntimeError("x" * 20_000 + "the end"))
    (line,) = log_lines()
    assert len(line["traceback"]) == 16_000
    assert line["traceback"].endswith("the end\n")


def test_an_uncaught_exception_ends_the_process_with_a_line_of_the_schema():
    program = """
import logging, warnings
from edged.log.output import configure
configure(node="pi-a", tier="edge", run_id="r1")
warnings.warn("old")
logging.getLogger("library").error("said %s", "this")
1 / 0
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    for line in lines:
        Draft202012Validator(json_schema()).validate(line)
    assert [line["event"] for line in lines] == ["log.foreign", "log.foreign", "life.crashed"]
    assert [line["logger"] for line in lines[:2]] == ["py.warnings", "library"]
    assert lines[1]["message"] == "said this"
    assert lines[2]["traceback"].endswith("ZeroDivisionError: division by zero\n")
    assert run.returncode == 1


WORK = """
import sys
from edged.log import logger
from edged.log.output import configure
configure(node="pi-a", tier="edge", run_id="r1")
for _ in range(2000):
    logger().info("life.ready", degraded=False)
print("worked")
"""


@pytest.mark.parametrize("end", ["2>/dev/full", "2>&1 >&3 | true"], ids=["full disk", "reader gone"])
def test_a_log_that_refuses_lines_does_not_stop_the_work(end):
    command = f"exec 3>&1; {{ {sys.executable} -c '{WORK}' || echo failed >&3; }} {end}"
    done = subprocess.run(["/bin/sh", "-c", command], check=False, capture_output=True, text=True)
    assert done.stdout == "worked\n"


def test_warnings_are_lines_too(log_lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("deprecated thing", DeprecationWarning, stacklevel=1)
    [line] = [each for each in log_lines("log.foreign") if "deprecated thing" in each["message"]]
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")


async def test_the_unretrieved_exception_of_a_task_is_a_line_with_its_traceback(log_lines):
    async def fails():
        raise LookupError("nobody asks")

    task = asyncio.create_task(fails())
    await asyncio.wait([task])
    del task
    gc.collect()
    [line] = [each for each in log_lines("log.foreign") if "LookupError: nobody asks" in each.get("traceback", "")]
    assert (line["level"], line["logger"]) == ("error", "asyncio")


async def test_asyncios_word_on_a_connection_that_breaks_while_much_is_written_is_none(log_lines):
    ours, theirs = socket.socketpair()
    _reader, writer = await asyncio.open_connection(sock=ours)
    theirs.close()
    for _ in range(20):
        writer.write(b"x")
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    assert log_lines("log.foreign") == []


def test_a_flood_from_one_source_is_counted_and_suppresses_no_other_source(log_lines):
    now = [100.0]
    foreign = logging.getLogger("flooding.library")
    foreign.propagate = False
    handler = ForeignLines(limit=3, window_s=10, clock=lambda: now[0])
    foreign.addHandler(handler)
    try:
        for number in range(8):
            foreign.warning("again %d", number)
        foreign.error("something else")
        assert [line["message"] for line in log_lines()] == ["again 0", "again 1", "again 2", "something else"]
        now[0] += 10
        foreign.warning("later")
        assert (log_lines()[-1]["message"], log_lines()[-1]["suppressed"]) == ("later", 5)
        foreign.warning("and on")
        assert "suppressed" not in log_lines()[-1]
    finally:
        foreign.removeHandler(handler)
        foreign.propagate = True


def test_a_throttle_admits_one_line_per_kind_and_window_and_counts_the_others():
    throttle = Throttle(window_s=10)
    assert [throttle.pass_on("late", now_s) for now_s in (0, 1, 9.9, 10, 19, 30)] == [0, None, None, 2, None, 1]
    assert throttle.pass_on("closed", 30) == 0


def test_a_throttle_admits_up_to_its_limit_per_window():
    throttle = Throttle(window_s=10, limit=2)
    assert [throttle.pass_on("late", now_s) for now_s in (0, 1, 2, 10, 11, 12)] == [0, 0, None, 1, 0, None]


def test_a_throttle_forgets_the_kind_that_was_logged_longest_ago_once_its_window_is_over():
    throttle = Throttle(window_s=10, max_kinds=2)
    for kind, now_s in (("a", 0), ("b", 1), ("a", 11), ("c", 12)):
        assert throttle.pass_on(kind, now_s) == 0
    assert throttle.pass_on("a", 13) is None
    assert throttle.pass_on("b", 13) is None
    assert throttle.pass_on("b", 21) == 1


def test_a_throttle_stays_one_when_more_kinds_come_than_it_remembers():
    throttle = Throttle(window_s=10, max_kinds=100)
    logged = [throttle.pass_on(kind, now_s=5) for _ in range(10) for kind in range(1000)]
    assert logged.count(None) == 10_000 - 100
    assert throttle.pass_on("later", now_s=15) == 9_000


def test_lines_of_one_kind_do_not_hide_anothers(log_lines):
    lines = ThrottledLog()
    for offset in range(100):
        for topic in ("a", "b"):
            lines.error("archive.rejected", topic, topic=topic, offset=offset, reason="junk", kept_as="")
    assert [(line["topic"], line["suppressed"]) for line in log_lines()] == [("a", 0), ("b", 0)]


def test_configuring_again_logs_foreign_lines_once(stream):
    set_up(stream)
    set_up(stream)
    logging.getLogger("library").warning("once")
    assert len(stream.getvalue().splitlines()) == 1


def test_information_of_foreign_code_is_left_out(log_lines):
    logging.getLogger("library").info("connected to 10.0.0.1")
    assert log_lines() == []


def test_a_broken_foreign_record_raises_nothing(log_lines, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logging.getLogger("library").warning("%d samples", "many")
    assert log_lines() == []


def test_the_kafka_password_is_in_no_repr_and_no_line(log_lines):
    security = Security(protocol="SASL_SSL", mechanism="SCRAM-SHA-512", username="pi-a", password="hunter2")  # noqa: S106
    topology = Topology("site", Kafka(("broker:9092",), security), (), (), (), ())
    logger().info("health.degraded", part="kafka", reason=f"{topology} {topology.kafka!r} {security!s}")
    log_crash(ValueError(topology))
    logging.getLogger("library").warning("using %r", topology)
    text = json.dumps(log_lines())
    assert "pi-a" in text  # the security settings were shown
    assert "hunter2" not in text
    assert "hunter2" not in repr(dataclasses.replace(security, username="pi-b"))


def test_a_program_without_a_configured_log_keeps_its_stdout():
    """A device's script: warnings and errors go to stderr, the rest nowhere."""
    program = (
        "from edged.log import logger;"
        "logger().info('kafka.connected', bootstrap='b:1', idempotent=True);"
        "logger().warning('health.degraded', part='kafka', reason='gone')"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "event='health.degraded' part='kafka' reason='gone'\n")


def test_on_a_terminal_the_resources_are_a_short_line_every_30_s():
    now_s = 0.0
    shorten = ResourcesForPeople(clock=lambda: now_s)
    common = dict.fromkeys(("ts", "level", "node", "tier", "run_id"), "x")
    whole = {
        "event": "res.sample", "process_cpu_percent": 87.4, "rss_bytes": 90 << 20, "lag_records": 3,
        "trained_samples_per_s": 512.3, "served_samples_per_s": 0.0, "wait_fraction": 0.071, "loop_lag_ms": 0.1,
        "blocked_fraction": 0.048,
    }  # fmt: skip

    shown = []
    for now_s in (0.0, 1.0, 29.9, 30.0):  # noqa: B007 - the clock reads it
        with contextlib.suppress(structlog.DropEvent):
            shown.append(shorten(None, "info", {**common, **whole}))

    assert [line.items() - common.items() for line in shown] == [
        {
            ("event", "res.sample"), ("cpu", "87%"), ("rss", "90MiB"), ("trained", "512/s"), ("wait", "7%"),
            ("blocked", "5%"), ("lag", 3),
        }
    ] * 2  # fmt: skip


def test_on_a_terminal_every_other_line_is_shown(stream):
    set_up(stream, pretty=True)
    for _ in range(3):
        logger().info("life.ready", degraded=False)
    assert stream.getvalue().count("life.ready") == 3
