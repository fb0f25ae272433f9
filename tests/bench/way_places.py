"""Where an edge's CPU goes on the way from the archive's replies to the step: the edge itself, timed place by place.

Run by `way`: python -m tests.bench.way_places FIGURES ARGUMENT …, which runs `edged ARGUMENT …` and adds a line of JSON
to the file FIGURES at the end of each epoch. Each place is the CPU time of the threads inside its functions, without
that of other places they call, in seconds since the epoch before. A coroutine is timed while it runs, not while it
waits. What is left of the event loop's thread is `event loop`; of the other Python threads, `hand-over`; of the rest,
`foreign threads`: the Kafka client's compression has none, BLAS would.
"""

import functools
import importlib
import inspect
import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from edged.cli import main as edged
from edged.services.training.evaluation import EndedEpoch

PLACES = {
    "client": (
        "edged.services.archive.client:_ReplyMux.poll", "edged.services.archive.client:_ReplyMux.send",
        "edged.services.epochs.window_reader:WindowReader.arrive",
    ),
    "plan": (
        "edged.services.epochs.prefetch:Prefetcher.open", "edged.services.epochs.plans:DrawnEpoch.window",
        "edged.services.epochs.plans:DrawnEpoch.locate", "edged.services.epochs.window_reader:WindowReader.ask",
        "edged.services.epochs.planner:LocalPlanner.plan", "edged.services.epochs.planner:LocalPlanner.close",
    ),
    "cache": ("edged.services.epochs.window_reader:WindowReader.read",),
    "decode": ("edged.services.batches.batcher:Batcher._fill",),
    "batch assembly": ("edged.services.batches.batcher:Batcher.*", "edged.services.epochs.loader:EpochLoader.*"),
    "step": ("edged.domain.nn.model:_Lane.run", "edged.domain.nn.model:Model.gradient"),
    "loss, optimizer": ("edged.domain.training.learner:Learner.step",),
    "test": ("edged.domain.training.learner:Learner.test",),
    "checkpoints": ("edged.services.training.checkpointing:Checkpointing.*",),
}  # fmt: skip
OUTSIDE = ("client", "plan", "cache", "decode", "batch assembly", "loss, optimizer", "event loop", "hand-over")
"""What is outside the step, of training."""


class _Clock(threading.local):
    """This thread's CPU time, given to the innermost place that it is in."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.since = 0.0


class Meter:
    """`seconds`: by place, since start; `of_thread`: those of each thread that are in a place."""

    def __init__(self) -> None:
        self._clock = _Clock()
        self._lock = threading.Lock()
        self.seconds: dict[str, float] = defaultdict(float)
        self.of_thread: dict[int, float] = defaultdict(float)

    def enter(self, place: str) -> None:
        self._turn()
        self._clock.inside.append(place)

    def leave(self) -> None:
        self._turn()
        self._clock.inside.pop()

    def _turn(self) -> None:
        clock, now = self._clock, time.thread_time()
        if clock.inside:
            with self._lock:
                self.seconds[clock.inside[-1]] += now - clock.since
                self.of_thread[threading.get_ident()] += now - clock.since
        clock.since = now

    def timed(self, function: Callable[..., Any], place: str) -> Callable[..., Any]:
        """The function, its time given to the place."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def coroutine(*args: Any, **options: Any) -> Any:
                return await _Steps(self, function(*args, **options), place)

            return coroutine

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            self.enter(place)
            try:
                return function(*args, **options)
            finally:
                self.leave()

        return call


class _Steps:
    """A coroutine, timed from one wait to the next."""

    def __init__(self, meter: Meter, coroutine: Any, place: str) -> None:
        self._meter, self._coroutine, self._place = meter, coroutine, place

    def __await__(self) -> Generator[Any, Any, Any]:
        def step(action: Callable[..., Any], *arguments: Any) -> Any:
            self._meter.enter(self._place)
            try:
                return action(*arguments)
            finally:
                self._meter.leave()

        inner, sent, thrown = self._coroutine.__await__(), None, None
        while True:
            try:
                waited = step(inner.send, sent) if thrown is None else step(inner.throw, thrown)
            except StopIteration as end:
                return end.value
            sent = thrown = None
            try:
                sent = yield waited
            except BaseException as error:  # noqa: BLE001 - passed on: a cancellation among them
                thrown = error


def install(meter: Meter) -> None:
    """Time all places. Raises AttributeError when one is no longer there."""
    for place, names in PLACES.items():
        for name in names:
            module, _, attribute = name.partition(":")
            kind, _, method = attribute.partition(".")
            owner = getattr(importlib.import_module(module), kind)
            for each in _methods(owner) if method == "*" else [method]:
                function = getattr(owner, each)
                if not hasattr(function, "__wrapped__"):
                    setattr(owner, each, meter.timed(function, place))


def _methods(owner: type) -> list[str]:
    return [
        name
        for name, each in vars(owner).items()
        if inspect.isfunction(each) and not name.startswith("__") and not inspect.isasyncgenfunction(each)
    ]


def thread_seconds() -> dict[int, float]:
    """CPU seconds of each of this process's Python threads."""
    return {
        thread.ident: time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.ident is not None
    }


def snapshot(meter: Meter) -> dict[str, float]:
    """CPU seconds by place, since start; all together they are the process's."""
    threads, loop = thread_seconds(), threading.main_thread().ident
    seconds = defaultdict(float, meter.seconds)
    for thread, total in threads.items():
        seconds["event loop" if thread == loop else "hand-over"] += total - meter.of_thread[thread]
    seconds["foreign threads"] = time.process_time() - sum(threads.values())
    return seconds


def main() -> None:
    figures, *arguments = sys.argv[1:]
    meter, log = Meter(), EndedEpoch.log
    before: dict[str, float] = defaultdict(float)

    def log_and_note(epoch: EndedEpoch) -> None:
        nonlocal before
        now = snapshot(meter)
        seconds = {place: now[place] - before[place] for place in now}
        line = {"epoch": epoch.metrics.epoch, "samples": epoch.tally.num_samples, "seconds": seconds}
        before = now
        with Path(figures).open("a") as file:
            file.write(json.dumps(line) + "\n")
        log(epoch)

    EndedEpoch.log = log_and_note  # type: ignore[method-assign, assignment]
    install(meter)
    sys.exit(edged(arguments))


if __name__ == "__main__":
    main()
