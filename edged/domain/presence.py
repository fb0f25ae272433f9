"""Which of several runs of one node goes on: the rule, and the records that its runs write to the log.

Reads no log and looks at no process. See also: `services.node.presence`, which does.

A run writes a claim, and then a beat every few seconds. Of two that are alive the older goes on, and its age is the
place of its claim in the log: no clock decides. Alive is who has written after one's own claim. Who has not, and wrote
his last within a few beats before it, is waited for, for as long as his beats would still take by the log's times; then
he counts as silent. Whose process has ended on this machine is waited for by nobody: the new run takes his place, and
his age. What a dead process wrote may yet arrive, once.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from edged.domain import format_version
from edged.errors import FormatError

FORMAT = "presence/1"
SILENT_BEATS = 4
"""So many of a run's beats that are missing mean that it is silent: more than a broker takes to be replaced."""

_MAX_EVERY_S = 60.0
_MAX_BYTES = 8192
_MAX_TEXT = 4096
_TEXTS = ("run", "host", "folder", "boot", "namespace", "lock")
_NUMBERS = ("pid", "started", "claim", "age", "began_ms")
_MAX_OTHERS = 64
"""One that is started again and again is another run each time."""


class Process(NamedTuple):
    """A process, so that others of its machine can tell whether it is still there. "" and 0: not known.

    `boot`: of its kernel, another one after each start; `namespace`: in which `pid` counts; `started`: in clock ticks
    since the boot; `lock`: what it holds, and no other process of this boot at the same time.
    """

    boot: str = ""
    namespace: str = ""
    pid: int = 0
    started: int = 0
    lock: str = ""


class Run(NamedTuple):
    """One run of a node, from the start of its process to its end; `name` is its log lines' `run_id`."""

    name: str
    host: str
    folder: str
    process: Process
    every_s: float
    """Time between its beats."""


class Beat(NamedTuple):
    """A record of a run. `claim`: the offset of its first one; `age`: of whose place it has taken, else the same.

    `began_ms`: the log's time of the claim. All -1 in a claim itself, which does not know its offset yet.
    """

    run: Run
    claim: int = -1
    age: int = -1
    began_ms: int = -1
    has_ended: bool = False


class Seniority(NamedTuple):
    """The lower one is the older."""

    age: int
    claim: int


@dataclass(slots=True)
class _Other:
    """`num_heard`: its records since one's own claim."""

    run: Run
    seniority: Seniority
    began_ms: int
    last_ms: int
    has_ended: bool
    num_heard: int = 0


class Decision(NamedTuple):
    """Yield to an older run; or wait, for so long at most; or go on, and after whom: "dead", "silent" or "ended"."""

    yields_to: Run | None = None
    since_ms: int = -1
    waits_s: float = 0.0
    former: Run | None = None
    former_is: str = ""


class Watch:
    """What a run knows of the others of its role; to be told all records in the log's order, its own among them."""

    def __init__(self, own: Run) -> None:
        self._own = own
        self._seniority = Seniority(-1, -1)
        self._began_ms = -1
        self._claimed_s = 0.0
        self._is_read = False
        self._others: dict[str, _Other] = {}

    @property
    def has_claimed(self) -> bool:
        return self._seniority.claim >= 0

    def claimed(self, offset: int, now_s: float) -> None:
        """The claim was acknowledged at this offset. `now_s`: of any clock that is not set, as in `decide`."""
        self._seniority = Seniority(offset, offset)
        self._claimed_s = now_s

    def beat(self, *, has_ended: bool = False) -> bytes:
        """The next record to write; the claim, if there is none yet."""
        return encode(Beat(self._own, self._seniority.claim, self._seniority.age, self._began_ms, has_ended))

    def take(self, offset: int, at_ms: int, beat: Beat) -> Run | None:
        """Learn from the record at `offset`, written at the log's time `at_ms`, which is negative if it is not known.

        Returns its run if that is a younger one of which nothing was known.
        """
        if beat.run.name == self._own.name:
            if offset == self._seniority.claim:
                self._is_read, self._began_ms = True, at_ms
            return None
        is_claim = not 0 <= beat.age <= beat.claim <= offset  # also what was written to a log before this one
        seniority = Seniority(offset, offset) if is_claim else Seniority(beat.age, beat.claim)
        before = self._others.pop(beat.run.name, None)
        num_heard = (before.num_heard if before else 0) + (self.has_claimed and offset > self._seniority.claim)
        began_ms = at_ms if is_claim else beat.began_ms
        self._others[beat.run.name] = _Other(beat.run, seniority, began_ms, at_ms, beat.has_ended, num_heard)
        if len(self._others) > _MAX_OTHERS:
            del self._others[next(iter(self._others))]  # the one that was heard of longest ago
        is_younger = seniority > self._seniority
        return beat.run if before is None and self._is_read and is_younger and not beat.has_ended else None

    def decide(self, now_s: float, is_gone: Callable[[Process], bool]) -> Decision:
        """What to do now. `is_gone`: whether it is certain that a process has ended."""
        if not self._is_read:
            return Decision(waits_s=self._own.every_s)
        dead = {name for name, other in self._others.items() if not other.has_ended and is_gone(other.run.process)}
        for name in dead:
            self._take_the_age_of(self._others[name], now_s)
        waits_s, formers = 0.0, list[tuple[int, Run, str]]()
        for name, other in self._others.items():
            if other.has_ended:
                formers.append((other.last_ms, other.run, "ended"))
            elif other.seniority < self._seniority:
                if other.num_heard > (1 if name in dead else 0):
                    return Decision(other.run, other.began_ms)
                waits_s = max(waits_s, 0.0 if name in dead else self._left_s(other, now_s))
                formers.append((other.last_ms, other.run, "dead" if name in dead else "silent"))
        _last_ms, former, former_is = max(
            formers, default=(0, None, ""), key=lambda each: (each[2] != "ended", each[0])
        )
        return Decision(waits_s=waits_s, former=former, former_is=former_is)

    def _take_the_age_of(self, dead: _Other, now_s: float) -> None:
        if dead.num_heard <= 1 and self._left_s(dead, now_s) > 0:
            self._seniority = min(self._seniority, Seniority(dead.seniority.age, self._seniority.claim))

    def _left_s(self, other: _Other, now_s: float) -> float:
        """How much longer a beat of the other might take to come, from its last one before the claim on."""
        is_known = min(self._began_ms, other.last_ms) >= 0
        age_s = max(0.0, (self._began_ms - other.last_ms) / 1000) if is_known else 0.0
        return SILENT_BEATS * other.run.every_s - age_s - (now_s - self._claimed_s)


def where(host: str, since_ms: int, pid: int, folder: str) -> str:
    """Where and since when a process runs, for people. `since_ms` is negative if it is not known."""
    since = f"since {datetime.fromtimestamp(since_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC, " if since_ms >= 0 else ""
    return f"on {host}, {since}process {pid}, state folder {folder}"


def encode(beat: Beat) -> bytes:
    """The record as JSON."""
    name, host, folder, process, every_s = beat.run
    values = {"edged": FORMAT, "run": name, "host": host, "folder": folder, "every_s": every_s}
    values |= process._asdict() | {"claim": beat.claim, "age": beat.age, "began_ms": beat.began_ms}
    return json.dumps(values | {"ended": beat.has_ended}, separators=(",", ":")).encode()


def decode(blob: bytes) -> Beat:
    """The record that `encode` gave. Raises FormatError, AnotherVersion."""
    try:
        values: Any = json.loads(blob) if len(blob) <= _MAX_BYTES else None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not a record of {FORMAT}: {error}") from error
    if not isinstance(values, dict):
        raise FormatError(f"not a record of {FORMAT}")
    format_version.check(values.get("edged"), FORMAT)
    every_s: Any = values.get("every_s")
    if type(every_s) not in {int, float} or not every_s > 0:
        raise FormatError(f"every_s is no time: {every_s!r:.100}")
    run, host, folder, boot, namespace, lock = (_text(values, key) for key in _TEXTS)
    pid, started, claim, age, began_ms = (_number(values, key) for key in _NUMBERS)
    process = Process(boot, namespace, pid, started, lock)
    has_ended = values.get("ended") is True
    return Beat(Run(run, host, folder, process, min(every_s, _MAX_EVERY_S)), claim, age, began_ms, has_ended)


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise FormatError(f"{key} is no text: {value!r:.100}")
    return value


def _number(values: dict[str, Any], key: str) -> int:
    value = values.get(key)
    if type(value) is not int or not -1 <= value < 1 << 63:
        raise FormatError(f"{key} is no number: {value!r:.100}")
    return value
