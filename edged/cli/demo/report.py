"""The demo's figures, counted from the data itself, as a table with sentences or as one JSON object."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edged.cli.demo import group_report
from edged.cli.demo.group import Group
from edged.domain.counted import counted
from edged.domain.nn.backend import NUMPY

_DECIMALS = {"test_accuracy": 4, "live_accuracy": 4, "data_wait_fraction": 4, "blocked_fraction": 4, "share": 4}
"""Of the figures in JSON; all others have one."""


@dataclass(frozen=True, slots=True)
class WayBack:
    """Predictions that came back to their devices by MQTT. Latencies: from a sample's arrival until it was there."""

    delivered: int
    delivered_twice: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one run. Identities are (device, partition, offset); every list below counts distinct ones.

    `backend`: what computed the layers; `no_kernels`: why not compiled kernels, if none could be used.
    `*_twice` count identities found more than once. Memory in MiB, times in seconds and milliseconds. Several
    edges train one model: all figures of training are those of their `group`. None: cannot be known, without live
    samples or without test images, or where the kernel does not count it.
    """

    edges: int
    test_accuracy: float | None
    samples_per_s: float
    data_wait_fraction: float
    blocked_fraction: float | None
    backend: str
    no_kernels: str | None
    peak_rss_mib: Mapping[str, float]
    published: int
    archived: int
    archived_twice: int
    predicted: int
    predicted_twice: int
    dead_lettered: int
    prediction_p50_ms: float | None
    prediction_p99_ms: float | None
    live_accuracy: float | None
    epochs: int
    trained_samples: int
    import_samples: int
    wall_s: float
    group: Group | None = None
    way_back: WayBack | None = None

    @property
    def is_well(self) -> bool:
        """Whether all is as promised: whole, and the edges of a group ended with the same weights."""
        is_back = self.way_back is None or self.way_back.delivered == self.predicted
        return self.whole and is_back and (self.group is None or self.group.is_identical)

    @property
    def whole(self) -> bool:
        """Every published sample was archived and predicted exactly once."""
        once = self.archived_twice == self.predicted_twice == 0
        return once and self.published == self.archived + self.dead_lettered == self.predicted + self.dead_lettered


def distinct(identities: Iterable[object]) -> tuple[int, int]:
    """(how many distinct, how many more than once)."""
    seen: set[object] = set()
    twice: set[object] = set()
    for identity in identities:
        (twice if identity in seen else seen).add(identity)
    return len(seen), len(twice)


def percentile(values: Sequence[float], share: float) -> float | None:
    """The `share` percentile; None of no values."""
    return float(np.percentile(values, share)) if values else None


def as_json(summary: Summary) -> str:
    """One line; the last of stdout with --json. No more digits than mean something."""
    figures = _rounded(asdict(summary))
    if summary.group is not None:
        figures["group"]["is_identical"] = summary.group.is_identical
    return json.dumps({**figures, "whole": summary.whole})


def as_text(summary: Summary, columns: int) -> str:
    """A table and one sentence per tier, no wider than `columns` where words allow it."""
    of_group = [] if summary.group is None else group_report.rows(summary.group)
    rows = [*_training(summary), *of_group, *_live(summary), *_process(summary)]
    width = max(len(title) for title, _ in rows)
    table = "\n".join(f"  {title:<{width}}   {value}" for title, value in rows)
    sentences = "\n".join(_sentence(text, columns) for text in _tiers(summary))
    return f"\n{table}\n\n{sentences}"


Rows = list[tuple[str, str]]


def _training(summary: Summary) -> Rows:
    together = "" if summary.edges == 1 else f" ({_edges(summary)} together)"
    accuracy = "no test images" if summary.test_accuracy is None else f"{summary.test_accuracy:.1%}"
    return [
        ("test accuracy", accuracy),
        ("trained samples", f"{summary.trained_samples:,} in {counted(summary.epochs, 'epoch')}{together}"),
        ("training speed", f"{summary.samples_per_s:,.0f} samples/s{together}"),
        ("trained by", _trained_by(summary)),
        ("waited for data", f"{summary.data_wait_fraction:.1%} of the time"),
        ("lanes blocked", _blocked(summary.blocked_fraction)),
    ]


def _trained_by(summary: Summary) -> str:
    if summary.backend != NUMPY:
        return f"compiled kernels ({summary.backend})"
    return "numpy" if summary.no_kernels is None else "numpy, which is slower; why, is told below"


def _blocked(fraction: float | None) -> str:
    if fraction is None:
        return "not readable here"
    return f"{fraction:.1%} of the time: they wait for data, and for each other"


def _live(summary: Summary) -> Rows:
    if not summary.published:
        return [("live samples", "none, as --live 0 asks for")]
    rows = [
        ("live samples published", f"{summary.published:,}"),
        ("  archived", f"{summary.archived:,}" + _twice(summary.archived_twice)),
        ("  predicted", f"{summary.predicted:,}" + _twice(summary.predicted_twice)),
        ("  dead-lettered", f"{summary.dead_lettered:,}"),
    ]
    if summary.prediction_p50_ms is not None:
        latency = f"{summary.prediction_p50_ms:.0f} ms median, {summary.prediction_p99_ms:.0f} ms p99"
        rows.append(("prediction latency", latency))
    if summary.way_back is not None:
        rows += _way_back(summary.way_back)
    return rows


def _way_back(back: WayBack) -> Rows:
    rows = [("back at their devices", f"{back.delivered:,}{_twice(back.delivered_twice)}")]
    if back.p50_ms is not None:
        rows.append(("  after the sample", f"{back.p50_ms:.0f} ms median, {back.p99_ms:.0f} ms p99"))
    return rows


def _process(summary: Summary) -> Rows:
    memory = [(f"peak memory of {name}", f"{mib:,.0f} MiB") for name, mib in summary.peak_rss_mib.items()]
    return [*memory, ("wall time", f"{summary.wall_s:.1f} s")]


def _tiers(summary: Summary) -> list[str]:
    of_group = [] if summary.group is None else group_report.sentences(summary.group)
    numpy = [] if summary.no_kernels is None else [f"Trained by numpy: {summary.no_kernels}."]
    return [
        *numpy,
        f"Tier 1, the devices, published {_published(summary)}.",
        f"Tier 2, the {_edges(summary)}, trained {_trained(summary)}, and predicted {_predicted(summary)}.",
        *of_group,
        f"Tier 3, the archive, streamed {_streamed(summary)} and kept {_kept(summary)}.",
    ]


def _published(summary: Summary) -> str:
    if not summary.published:
        return "nothing"
    published = counted(summary.published, "fresh image")
    if summary.way_back is not None:
        return f"{published} by MQTT, and got {counted(summary.way_back.delivered, 'prediction')} back"
    waiting = counted(summary.predicted, "prediction") + (" waits" if summary.predicted == 1 else " wait")
    return f"{published}; {waiting} for them in Kafka"


def _edges(summary: Summary) -> str:
    return "edge" if summary.edges == 1 else counted(summary.edges, "edge")


def _trained(summary: Summary) -> str:
    one_model = "one model on " if summary.edges > 1 else "on "
    trained = one_model + counted(summary.trained_samples, "sample")
    if summary.test_accuracy is None:
        return trained
    return f"{trained} to {summary.test_accuracy:.1%} test accuracy"


def _predicted(summary: Summary) -> str:
    if not summary.published:
        return "none"
    right = "" if summary.live_accuracy is None else f", {summary.live_accuracy:.1%} of them right"
    return f"{summary.predicted:,} live ones{right}"


def _streamed(summary: Summary) -> str:
    shared_out = f", shared out among the {_edges(summary)}" if summary.edges > 1 else ""
    return f"{counted(summary.import_samples, 'image')} in {counted(summary.epochs, 'epoch')}{shared_out}"


def _kept(summary: Summary) -> str:
    if not summary.published:
        return "no new ones, as none came"
    return f"{summary.archived:,} new ones: {'each' if summary.whole else 'NOT each'} exactly once"


def _sentence(text: str, columns: int) -> str:
    return textwrap.fill(text, columns, break_long_words=False, break_on_hyphens=False)


def _twice(count: int) -> str:
    return f" ({count:,} twice!)" if count else ""


def _rounded(value: Any, name: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(each, name) for name, each in value.items()}
    return round(value, _DECIMALS.get(name, 1)) if isinstance(value, float) else value
