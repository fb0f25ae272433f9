"""What a person sees while the demo runs: bars on a terminal, a line per epoch everywhere.

Fed by the children's log lines. Nothing here decides anything.
"""

import shutil
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from edged.cli.demo.processes import LogLine

_MAX_COLUMNS = 100
"""Longer lines are hard to read."""

_BAR = "  {{desc:<9}}{{percentage:3.0f}}% |{{bar}}| {{n:>{digits},}} of {{total:<{digits},}} {{unit:>9}}"
"""The unit's place is the training's speed."""

_ECHO = 3
"""Columns left free for the ^C that a terminal shows where the cursor is."""


def columns() -> int:
    """How wide the text is set."""
    return min(shutil.get_terminal_size().columns, _MAX_COLUMNS)


_GROUP = "all"
"""Stands for all edges of a group in counts by process."""


class Display:
    """Progress of all processes. `num_training`: samples of one epoch, which several edges share out."""

    def __init__(self, *, epochs: int, num_training: int, edges: int, num_live: int) -> None:
        self._epochs = epochs
        self._num_training = num_training
        self._rates: Counter[str] = Counter()
        self._trained: Counter[str] = Counter()
        self._predicted: Counter[str] = Counter()
        self._is_group = edges > 1
        self._epochs_shown = 0
        self._shown = sys.stderr.isatty()
        self._closed = False
        totals = epochs * num_training, num_live
        digits = len(f"{max(totals):,}")
        self._train = self._bar("training", totals[0], digits)
        self._live = self._bar("live", totals[1], digits)

    def write(self, text: str = "") -> None:
        """A sentence for the person, above the bars."""
        self._write(textwrap.fill(text, columns(), break_on_hyphens=False))

    def show(self, file: Path) -> None:
        """A whole file."""
        self._write(f"{file}\n\n{textwrap.indent(file.read_text(encoding='utf-8'), '  ')}")

    def close(self) -> None:
        """Take the bars away. What the children log from now on is about their end, which was asked for."""
        self._closed = True
        self._train.close()
        self._live.close()
        if self._shown:
            sys.stderr.write("\r\x1b[J")  # tqdm leaves the cursor after the blanks of the last bar
            sys.stderr.flush()

    def on_line(self, name: str, line: LogLine) -> None:
        """A child logged."""
        if self._closed:
            return
        match line.get("event"):
            case "train.epoch":
                self._epoch(line)
            case "res.sample":
                self._sample(name, line)
            case "health.degraded":
                self._write(f"  {line['node']}: {line['part']} degraded: {line['reason']}")
            case "health.recovered":
                self._write(f"  {line['node']}: {line['part']} is back after {line['degraded_s']:.1f} s")
            case "kafka.topics_missing":
                missing = ", ".join(line["topics"])
                self._write(f"  {name} waits for topics that it may not create (--topics prints how): {missing}")
            case "life.crashed":
                self._write(f"  {name} failed: {line['err_type']}: {line['err']}")

    def _epoch(self, line: LogLine) -> None:
        done = line["epoch"] + 1
        if self._is_group and (done <= self._epochs_shown or not line["samples_per_s"]):
            return  # another member logs it: the epoch is the same for all
        self._epochs_shown = done
        accuracy = line.get("test_accuracy")
        tested = "" if accuracy is None else f"  accuracy {accuracy:>5.1%}"
        blocked = "" if (share := line["blocked_fraction"]) is None else f"  lanes blocked {share:.0%}"
        of_all = f"{done:>{len(str(self._epochs))}}/{self._epochs}"
        self._write(
            f"  {_GROUP if self._is_group else line['node']}  epoch {of_all}  loss {line['loss']:.3f}{tested}"
            f"  {line['samples_per_s']:>5,.0f} samples/s  waited {line['wait_fraction']:.0%}{blocked}"
        )
        # The rates of single seconds do not quite add up to the whole.
        self._trained = Counter({_GROUP: done * self._num_training})
        self._move()

    def _sample(self, name: str, line: LogLine) -> None:
        trained = round(float(line.get("trained_samples_per_s", 0.0)))
        self._trained[name] += trained
        self._predicted[name] += round(float(line.get("predicted_samples_per_s", 0.0)))
        if trained:
            self._rates[name] = trained
        self._move()

    def _move(self) -> None:
        for bar, done in ((self._train, self._trained), (self._live, self._predicted)):
            bar.n = min(done.total(), bar.total)
        self._train.unit = f"{self._rates.total():,}/s"
        self._train.refresh()
        self._live.refresh()

    def _bar(self, title: str, total: int, digits: int) -> Any:
        style = _BAR.format(digits=digits)
        hidden = total == 0 or not self._shown
        return tqdm(
            total=total, desc=title, bar_format=style, unit="", leave=False, ncols=columns() - _ECHO, disable=hidden
        )

    @staticmethod
    def _write(text: str) -> None:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
