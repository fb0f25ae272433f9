"""What the demo found: counted from the data itself, told as a table, sentences, or one JSON object."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one run. Identities are (device, partition, offset); every list below counts distinct ones.

    `*_twice` count identities found more than once. Memory in MiB, times in seconds and milliseconds.
    """

    test_accuracy: float
    samples_per_s: float
    data_wait_fraction: float
    peak_rss_mib: Mapping[str, float]
    published: int
    archived: int
    archived_twice: int
    predicted: int
    predicted_twice: int
    dead_lettered: int
    prediction_p50_ms: float
    prediction_p99_ms: float
    live_accuracy: float
    epochs: int
    trained_samples: int
    import_samples: int
    wall_s: float

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


def percentile(values: Sequence[float], share: float) -> float:
    """The `share` percentile; 0 when there are none."""
    return float(np.percentile(values, share)) if values else 0.0


def as_json(summary: Summary) -> str:
    """One line; the last of stdout with --json."""
    return json.dumps({**asdict(summary), "whole": summary.whole})


def as_text(summary: Summary) -> str:
    """A table and one sentence per tier."""
    rows = [
        ("test accuracy", f"{summary.test_accuracy:.3f}"),
        ("trained samples", f"{summary.trained_samples:,} in {summary.epochs} epochs"),
        ("training speed", f"{summary.samples_per_s:,.0f} samples/s"),
        ("trainer waited for data", f"{summary.data_wait_fraction:.1%} of the time"),
        ("live samples published", f"{summary.published:,}"),
        ("  archived", f"{summary.archived:,}" + _twice(summary.archived_twice)),
        ("  predicted", f"{summary.predicted:,}" + _twice(summary.predicted_twice)),
        ("  dead-lettered", f"{summary.dead_lettered:,}"),
        ("prediction latency", f"{summary.prediction_p50_ms:.0f} ms median, {summary.prediction_p99_ms:.0f} ms p99"),
        *((f"peak memory of {name}", f"{mib:,.0f} MiB") for name, mib in summary.peak_rss_mib.items()),
        ("wall time", f"{summary.wall_s:.1f} s"),
    ]
    width = max(len(title) for title, _ in rows)
    table = "\n".join(f"  {title:<{width}}   {value}" for title, value in rows)
    verdict = "each exactly once" if summary.whole else "NOT each exactly once"
    return f"""{table}

Tier 1, the devices, published {summary.published:,} fresh images, raw and compressed; \
{summary.predicted:,} predictions wait for them in Kafka.
Tier 2, the edge, trained on {summary.trained_samples:,} samples to {summary.test_accuracy:.1%} test accuracy and \
predicted {summary.predicted:,} live ones ({summary.live_accuracy:.1%} right).
Tier 3, the archive, streamed {summary.import_samples:,} images in {summary.epochs} epochs and kept \
{summary.archived:,} new ones: {verdict}."""


def _twice(count: int) -> str:
    return f" ({count:,} twice!)" if count else ""
