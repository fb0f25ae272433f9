"""How a run's accuracy rises: its checkpoints, kept as they are saved and measured on the whole test set afterwards."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from edged.adapters.host.blas import single_threaded_blas
from edged.cli.demo.processes import LogLine
from edged.domain.nn.model import Model
from edged.domain.training import checkpoint
from edged.domain.training import state as state_module
from tests.bench.accuracy import FASHION
from tests.bench.sampling_study import NUM_THREADS, Data


@dataclass(frozen=True, slots=True)
class _Point:
    """A checkpoint, when it was saved, and the bytes that had come down the link by then."""

    seconds: float
    link_bytes: int
    blob: bytes


class Watch:
    """Follows a run by its log and keeps each checkpoint.

    `received`: the bytes that have come down its link so far; `start`: the event that seconds are counted from.
    """

    def __init__(self, state_folder: Path, received: Callable[[], int], start: str = "train.started") -> None:
        self._state_folder = state_folder
        self._received = received
        self._start = start
        self._bytes_before = received()
        self.started_s = math.inf
        self._points: list[_Point] = []

    def take(self, _name: str, line: LogLine) -> None:
        """Called with each line as it comes."""
        if line["event"] == self._start:
            self.started_s = min(self.started_s, unix_s(line))
        elif line["event"] == "checkpoint.saved":
            blob = (self._state_folder / f"checkpoint-{line['generation']:012}.safetensors").read_bytes()
            seconds = max(unix_s(line) - self.started_s, 0.0)
            self._points.append(_Point(seconds, self._received() - self._bytes_before, blob))

    def last(self) -> state_module.TrainState:
        """The newest checkpoint's state."""
        return checkpoint.decode(self._points[-1].blob)

    def curve(self, test: Data) -> Iterator[dict[str, Any]]:
        """Test accuracy of each checkpoint; `epoch`: epochs finished, when it was saved at the end of one."""
        models = [Model((28, 28, 1), FASHION.model) for _ in range(NUM_THREADS)]
        with single_threaded_blas(), ThreadPoolExecutor(NUM_THREADS) as executor:
            for point in self._points:
                state = checkpoint.decode(point.blob)

                def num_correct(part: int, params: state_module.Params = state.params) -> int:
                    x, y = (array[part::NUM_THREADS] for array in (test.x, test.y))
                    return int((models[part].logits(params, x * np.float32(1 / 255)).argmax(1) == y).sum())

                yield {
                    "seconds": point.seconds,
                    "link_bytes": point.link_bytes,
                    "epoch": state.position.epoch if state.position.sample == 0 else None,
                    "accuracy": sum(executor.map(num_correct, range(NUM_THREADS))) / len(test.y),
                }


def reached(curve: Sequence[Mapping[str, Any]], goal: float) -> dict[str, Any]:
    """The first checkpoint that is as good as the goal; None for a goal that was not reached."""
    found = next((point for point in curve if point["accuracy"] >= goal), None)
    return {
        "goal": goal,
        "goal_seconds": None if found is None else found["seconds"],
        "goal_bytes": None if found is None else found["link_bytes"],
    }


def unix_s(line: LogLine) -> float:
    """When the line was logged."""
    return datetime.fromisoformat(line["ts"]).timestamp()
