"""What an edge's lanes wait for, counted by cause: the edge itself, its lanes' threads watched at each change of place.

Run by `way --waits`: python -m tests.bench.way_waits FIGURES ARGUMENT …, which runs `edged ARGUMENT …` and adds a line
of JSON to the file FIGURES at the end of each epoch. Between two changes of place a thread has run, waited for a core,
or been blocked, by the kernel's count. Where it stood by for another lane, the cause is what that one did meanwhile,
and where no lane had work, what the trainer's task did; elsewhere it was blocked for Python's lock. Costs some 3 % of
the CPU.
"""

import functools
import importlib
import json
import os
import sys
import threading
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edged.cli import main as edged
from edged.services.training.evaluation import EndedEpoch
from edged.shared_work import SharedWork

PLACES = {
    "turn": ("edged.services.training.step_loop:StepLoop._make_steps",),
    "assembly": ("edged.services.training.step_loop:StepLoop._next", "edged.services.training.step_loop:_help"),
    "update": ("edged.services.training.trainer:Trainer._update",),
    "loss, optimizer": ("edged.domain.training.learner:Learner.step",),
    "sum of gradients": ("edged.domain.nn.model:Model.gradient",),
    "part": ("edged.domain.nn.model:_Lane.run",),
    "test": ("edged.domain.training.learner:Learner.test",),
}
PHASES = {
    "drawing a plan": "edged.services.training.trainer:Trainer._draw",
    "an epoch's end": "edged.services.training.trainer:Trainer._end_epoch",
    "between two turns": "edged.services.training.trainer:Trainer._after_turn",
    "reading samples": "edged.services.training.trainer:Trainer._put_next",
}
"""What the trainer's task does: the cause where no lane has anything to do."""

NOTHING = "no turn"
WAITS = "waits"
_LANES = "train"  # the prefix of their threads' names


class Segment(NamedTuple):
    """From `begin_s` to `end_s` a thread was at `place`; seconds that it ran, waited for a core, and was blocked."""

    begin_s: float
    end_s: float
    place: str
    ran_s: float
    queued_s: float
    blocked_s: float


class Lane(threading.local):
    """This thread's places, innermost last, and its segments since the last epoch; None: not of a lane."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        name = threading.current_thread().name
        self.segments: list[Segment] | None = None
        if name.startswith(_LANES):
            self.segments = ALL.setdefault(threading.get_native_id(), [])
            self.file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
            self.before = self._now()

    def _now(self) -> tuple[float, float, float]:
        queued_ns = int(os.pread(self.file, 100, 0).split()[1])
        return time.perf_counter(), time.thread_time(), queued_ns / 1e9

    def turn(self) -> None:
        """End the present segment."""
        if self.segments is None:
            return
        now = self._now()
        wall_s, ran_s, queued_s = (new - old for new, old in zip(now, self.before, strict=True))
        place = self.inside[-1] if self.inside else NOTHING
        blocked_s = max(wall_s - ran_s - queued_s, 0.0)
        self.segments.append(Segment(self.before[0], now[0], place, ran_s, queued_s, blocked_s))
        self.before = now

    def enter(self, place: str) -> None:
        self.turn()
        self.inside.append(place)

    def leave(self) -> None:
        self.turn()
        self.inside.pop()


ALL: dict[int, list[Segment]] = {}
LANE = Lane()


def placed(function: Callable[..., Any], place: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        LANE.enter(place)
        try:
            return function(*args, **options)
        finally:
            LANE.leave()

    return call


BEGUN: list[tuple[float, str]] = [(0.0, "anything else")]
"""Since when the trainer's task is in which phase."""


def phased(function: Callable[..., Any], phase: str) -> Callable[..., Any]:
    @functools.wraps(function)
    async def call(*args: Any, **options: Any) -> Any:
        before = BEGUN[-1][1]
        BEGUN.append((time.perf_counter(), phase))
        try:
            return await function(*args, **options)
        finally:
            BEGUN.append((time.perf_counter(), before))

    return call


def _phases(begin_s: float, end_s: float) -> dict[str, float]:
    """Seconds by phase."""
    shares: dict[str, float] = defaultdict(float)
    starts = [start for start, _ in BEGUN]
    at = bisect_right(starts, begin_s) - 1
    while at < len(BEGUN) and starts[at] < end_s:
        until = starts[at + 1] if at + 1 < len(starts) else end_s
        shares[BEGUN[at][1]] += min(until, end_s) - max(starts[at], begin_s)
        at += 1
    return shares


def results(work: Any) -> Any:
    """`SharedWork.results`, its wait a place of its own."""
    work.help()
    LANE.enter(f"{WAITS}: {LANE.inside[-1] if LANE.inside else NOTHING}")
    try:
        with work._unfinished:
            pass
    finally:
        LANE.leave()
    if work._errors:
        raise work._errors[min(work._errors)]
    return work._results


def causes(segments: Sequence[Sequence[Segment]]) -> dict[str, float]:
    """Seconds blocked by cause, of all lanes together."""
    found: dict[str, float] = defaultdict(float)
    for own in segments:
        others = [each for each in segments if each is not own]
        begins = [[segment.begin_s for segment in each] for each in others]
        for segment in own:
            is_standing_by = segment.place == NOTHING or segment.place.startswith(WAITS)
            if not is_standing_by:
                found[f"Python's lock, at: {segment.place}"] += segment.blocked_s
                continue
            shares = _shares(segment, others, begins)
            total = sum(shares.values())
            for cause, seconds in shares.items():
                blocked_s = segment.blocked_s * seconds / total
                if not (segment.place == NOTHING and cause.startswith(NOTHING)):
                    found[f"{segment.place} <- {cause}"] += blocked_s
                    continue
                phases = _phases(segment.begin_s, segment.end_s)
                for phase, phase_s in phases.items():
                    found[f"all lanes <- {phase}"] += blocked_s * phase_s / sum(phases.values())
            if not total:
                found[f"{segment.place} <- none"] += segment.blocked_s
    return dict(found)


def _shares(
    segment: Segment, others: Sequence[Sequence[Segment]], begins: Sequence[Sequence[float]]
) -> dict[str, float]:
    """What the other lanes did meanwhile: seconds by place, and by whether they ran."""
    shares: dict[str, float] = defaultdict(float)
    for each, starts in zip(others, begins, strict=True):
        at = max(bisect_right(starts, segment.begin_s) - 1, 0)
        while at < len(each) and each[at].begin_s < segment.end_s:
            other = each[at]
            at += 1
            overlap = min(other.end_s, segment.end_s) - max(other.begin_s, segment.begin_s)
            length = other.end_s - other.begin_s
            if overlap <= 0 or length <= 0:
                continue
            for state, seconds in (("ran", other.ran_s), ("queued", other.queued_s), ("blocked", other.blocked_s)):
                shares[f"{other.place}, {state}"] += overlap * seconds / length
    return shares


def install() -> None:
    for place, names in PLACES.items():
        for name in names:
            module, _, attribute = name.partition(":")
            owner: Any = importlib.import_module(module)
            *path, last = attribute.split(".")
            for part in path:
                owner = getattr(owner, part)
            setattr(owner, last, placed(getattr(owner, last), place))
    for phase, name in PHASES.items():
        module, _, attribute = name.partition(":")
        kind, _, method = attribute.partition(".")
        owner = getattr(importlib.import_module(module), kind)
        setattr(owner, method, phased(getattr(owner, method), phase))
    SharedWork.results = results  # type: ignore[method-assign, assignment]


def main() -> None:
    figures, *arguments = sys.argv[1:]
    log, since_s = EndedEpoch.log, time.perf_counter()

    def log_and_note(epoch: EndedEpoch) -> None:
        nonlocal since_s
        now_s = time.perf_counter()
        segments = []
        for each in ALL.values():
            segments.append(list(each))
            del each[: len(segments[-1])]
        line = {"epoch": epoch.metrics.epoch, "lane_s": len(segments) * (now_s - since_s), "seconds": causes(segments)}
        since_s = now_s
        with Path(figures).open("a") as file:
            file.write(json.dumps(line) + "\n")
        log(epoch)

    EndedEpoch.log = log_and_note  # type: ignore[method-assign, assignment]
    install()
    sys.exit(edged(arguments))


if __name__ == "__main__":
    main()
