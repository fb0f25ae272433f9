"""What a person sees while the demo runs: bars on a terminal, a line per epoch everywhere.

Fed by the children's log lines. Nothing here decides anything.
"""

import sys
from collections import Counter
from typing import Any

from tqdm import tqdm

from edged.cli.demo.children import LogLine

_BAR = "{desc:<22}{percentage:3.0f}% |{bar:30}| {n_fmt}/{total_fmt}{postfix}"


class Display:
    """Progress of all processes. `num_training`: samples of one epoch, over all edges."""

    def __init__(self, *, epochs: int, num_training: int, num_live: int) -> None:
        self._epochs = epochs
        self._num_training = num_training
        self._rates: Counter[str] = Counter()
        self._totals: dict[str, Counter[str]] = {}
        self._shown = sys.stderr.isatty()
        self._train = self._bar("training", epochs * num_training)
        self._live = self._bar("live → predicted", num_live)

    def say(self, text: str = "") -> None:
        """A line for the person, above the bars."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Take the bars away."""
        self._train.close()
        self._live.close()
        if self._shown:
            sys.stderr.write("\r\x1b[K")  # tqdm leaves the cursor behind the blanks of the last bar
            sys.stderr.flush()

    def on_line(self, name: str, line: LogLine) -> None:
        """A child logged."""
        match line.get("event"):
            case "train.epoch":
                self._epoch(line)
            case "res.sample":
                self._sample(name, line)
            case "health.degraded":
                self.say(f"  {line['node']}: {line['part']} degraded: {line['reason']}")
            case "health.recovered":
                self.say(f"  {line['node']}: {line['part']} is back after {line['degraded_s']:.1f} s")
            case "life.crashed":
                self.say(f"  {name} failed: {line['err_type']}: {line['err']}")

    def _epoch(self, line: LogLine) -> None:
        accuracy = line.get("test_accuracy")
        tested = "" if accuracy is None else f"   test accuracy {accuracy:.3f}"
        self.say(
            f"  {line['node']}  epoch {line['epoch'] + 1}/{self._epochs}   loss {line['loss']:.3f}{tested}"
            f"   {line['samples_per_s']:,.0f} samples/s   waited {line['wait_fraction']:.0%}"
        )

    def _sample(self, name: str, line: LogLine) -> None:
        totals = self._totals.setdefault(name, Counter())
        trained = float(line.get("trained_samples_per_s", 0.0))
        totals["trained"] += round(trained)
        totals["predicted"] += round(float(line.get("predicted_samples_per_s", 0.0)))
        if trained:
            self._rates[name] = round(trained)
            self._train.set_postfix_str(f"{sum(self._rates.values()):,} samples/s")
        self._move(self._train, sum(one["trained"] for one in self._totals.values()))
        self._move(self._live, sum(one["predicted"] for one in self._totals.values()))

    def _bar(self, title: str, total: int) -> Any:
        return tqdm(total=total, desc=title, bar_format=_BAR, disable=not self._shown, leave=False, dynamic_ncols=True)

    @staticmethod
    def _move(bar: Any, to: int) -> None:
        bar.n = min(to, bar.total)
        bar.refresh()
