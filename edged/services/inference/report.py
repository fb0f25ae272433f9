"""The companion's log lines: predictions, throughput, latency and accuracy."""

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from edged.domain.samples.prediction import Prediction
from edged.log import logger

_MAX_LATENCIES = 10_000


class InferReport:
    """Accumulates from one line to the next, `every_s`. Times are the event loop's, in seconds."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self.begin(0.0)

    def begin(self, now_s: float) -> None:
        """Reset; the next line's interval begins now."""
        self._began_s = now_s
        self._generation = -1
        self._samples = self._skipped = self._labelled = self._correct = 0
        self._without_latency = 0
        self._anomalous: int | None = None
        self._compute_ms = 0.0
        self._latencies_ms: deque[float] = deque(maxlen=_MAX_LATENCIES)

    def predicted(self, predictions: Sequence[Prediction], labels: Sequence[str | None]) -> None:
        """Record a published batch; `labels`: as published by the devices."""
        self._generation = predictions[-1].generation
        self._samples += len(predictions)
        if predictions[-1].anomaly is None:
            self._labelled += sum(label is not None for label in labels)
            self._correct += sum(each.label == label for each, label in zip(predictions, labels, strict=True))
        else:
            self._anomalous = (self._anomalous or 0) + sum(each.is_anomalous for each in predictions)
        self._compute_ms += predictions[0].compute_ms
        known_ms = [each.latency_ms for each in predictions if each.latency_ms is not None]
        self._latencies_ms.extend(known_ms)
        self._without_latency += len(predictions) - len(known_ms)

    def skipped(self, count: int) -> None:
        """Record `count` records that could not be used."""
        self._skipped += count

    def write_if_due(self, now_s: float) -> None:
        """Write the line if the interval is over."""
        if now_s - self._began_s >= self._every_s:
            self.write(now_s)

    def write(self, now_s: float) -> None:
        """Write the line, unless nothing happened, and reset."""
        if self._samples or self._skipped:
            p50, p95 = np.percentile(self._latencies_ms or [math.nan], [50, 95])
            logger().info(
                "infer.predicted",
                generation=self._generation,
                samples=self._samples,
                skipped=self._skipped,
                labelled=self._labelled,
                correct=self._correct,
                samples_per_s=round(self._samples / max(now_s - self._began_s, 1e-3), 3),
                latency_p50_ms=round(float(p50), 3),
                latency_p95_ms=round(float(p95), 3),
                without_latency=self._without_latency,
                compute_ms=round(self._compute_ms, 3),
                **({} if self._anomalous is None else {"anomalous": self._anomalous}),
            )
        self.begin(now_s)
