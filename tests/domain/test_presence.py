"""Of several runs of a node one goes on, and the same one for all who read the log."""

import json

import pytest

from edged.domain.presence import FORMAT, Beat, Process, Run, Watch, decode, encode
from edged.errors import FormatError

EVERY_S = 5.0


def run(name: str, pid: int = 1) -> Run:
    return Run(name, "pi", "/var/lib/edged/pi-a", Process("boot", "pid:[1]", pid, 100, ""), EVERY_S)


def nobody_is_gone(_process: Process) -> bool:
    return False


def all_are_gone(_process: Process) -> bool:
    return True


class Log:
    """What runs write, with the log's time; each run is told all of it."""

    def __init__(self) -> None:
        self.records: list[tuple[int, int, Beat]] = []
        self.read: dict[int, int] = {}

    def write(self, watch: Watch, at_s: float, *, has_ended: bool = False) -> None:
        offset = len(self.records)
        beat = decode(watch.beat(has_ended=has_ended))
        self.records.append((offset, int(1000 * at_s), beat))
        if not watch.has_claimed:
            watch.claimed(offset, at_s)
        self.tell(watch)

    def tell(self, watch: Watch) -> None:
        for record in self.records[self.read.get(id(watch), 0) :]:
            watch.take(*record)
        self.read[id(watch)] = len(self.records)


def older_and_younger(younger_at_s: float) -> tuple[Log, Watch, Watch]:
    log, older, younger = Log(), Watch(run("a")), Watch(run("b", pid=2))
    log.write(older, 0)
    log.write(younger, younger_at_s)
    return log, older, younger


def test_a_run_alone_goes_on_at_once():
    log, only = Log(), Watch(run("a"))
    log.write(only, 0)
    assert only.decide(0, nobody_is_gone)[2:] == (0.0, None, "")


def test_the_younger_of_two_that_are_alive_yields_and_knows_since_when_the_older_runs():
    log, older, younger = older_and_younger(3)
    assert younger.decide(3, nobody_is_gone).waits_s == 17
    log.write(older, 5)
    log.tell(younger)
    decision = younger.decide(5, nobody_is_gone)
    assert decision.yields_to is not None
    assert (decision.yields_to.name, decision.since_ms) == ("a", 0)
    assert older.decide(5, nobody_is_gone).yields_to is None


def test_who_has_not_written_for_a_while_is_silent_and_is_not_waited_for_longer():
    _log, _older, younger = older_and_younger(3)
    assert younger.decide(19, nobody_is_gone).waits_s == 1
    assert younger.decide(21, nobody_is_gone)[2:] == (0.0, run("a"), "silent")
    _log, _older, late = older_and_younger(40)
    assert late.decide(40, nobody_is_gone)[2:] == (0.0, run("a"), "silent")


def test_a_silent_run_that_comes_back_is_still_the_older_one():
    log, older, younger = older_and_younger(600)
    assert younger.decide(600, nobody_is_gone).waits_s == 0
    log.write(older, 605)
    log.tell(younger)
    assert younger.decide(605, nobody_is_gone).yields_to == run("a")
    assert older.decide(605, nobody_is_gone).yields_to is None


def test_who_takes_the_place_of_a_dead_run_waits_for_nobody_and_has_its_age():
    log, _older, waiting = older_and_younger(3)
    again = Watch(run("c", pid=3))
    log.tell(again)
    log.write(again, 4)
    decision = again.decide(4, lambda process: process.pid == 1)
    assert (decision.waits_s, decision.yields_to) == (0.0, None)
    log.write(again, 9)
    log.tell(waiting)
    assert waiting.decide(9, nobody_is_gone).yields_to == run("c", pid=3)
    log.write(waiting, 9)
    log.tell(again)
    assert again.decide(9, lambda process: process.pid == 1).yields_to is None


def test_what_a_dead_process_wrote_may_arrive_late_but_not_twice():
    """Twice means that the process lives elsewhere: in a copy of this machine, with its boot id."""
    log, older, younger = older_and_younger(3)
    log.write(older, 5)
    log.tell(younger)
    assert younger.decide(5, all_are_gone)[2:] == (0.0, run("a"), "dead")
    log.write(older, 10)
    log.tell(younger)
    assert younger.decide(10, all_are_gone).yields_to == run("a")


def test_who_has_ended_is_not_waited_for():
    log, older = Log(), Watch(run("a"))
    log.write(older, 0)
    log.write(older, 1, has_ended=True)
    younger = Watch(run("b"))
    log.tell(younger)
    log.write(younger, 2)
    assert younger.decide(2, nobody_is_gone)[2:] == (0.0, run("a"), "ended")


@pytest.mark.parametrize("older_ms", [-1, 10_000_000])
def test_where_the_logs_time_is_unknown_or_goes_back_it_is_waited_for_as_long_as_beats_take(older_ms):
    younger = Watch(run("b"))
    younger.take(0, older_ms, Beat(run("a")))
    younger.claimed(1, 50)
    younger.take(1, 5_000, Beat(run("b")))
    assert younger.decide(50, nobody_is_gone).waits_s == 20
    assert younger.decide(71, nobody_is_gone).waits_s == 0


def test_a_new_younger_run_is_told_of_once():
    log, older, younger = older_and_younger(3)
    assert older.take(*log.records[1]) == run("b", pid=2)
    log.write(younger, 8)
    assert older.take(*log.records[2]) is None


def test_an_endless_row_of_runs_takes_no_endless_memory():
    watch = Watch(run("a"))
    for number in range(1000):
        watch.take(number, number, Beat(run(f"{number}")))
    assert len(watch._others) <= 64


@pytest.mark.parametrize("blob", [b"", b"[]", b"{}", b'{"edged": "presence/2"}', b"[" * 9000, b"\xff", b"x" * 9000])
def test_what_is_no_record_is_a_format_error(blob):
    with pytest.raises(FormatError):
        decode(blob)


@pytest.mark.parametrize(
    ("key", "value"), [("pid", "1"), ("pid", True), ("run", 1), ("every_s", 0), ("every_s", "nan")]
)
def test_a_record_with_a_wrong_value_is_a_format_error(key, value):
    values = json.loads(encode(Beat(run("a"), 1, 1, 5)))
    assert values["edged"] == FORMAT
    assert decode(json.dumps(values).encode()) == Beat(run("a"), 1, 1, 5)
    with pytest.raises(FormatError):
        decode(json.dumps(values | {key: value}).encode())
