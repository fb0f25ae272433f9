"""The companion's line sums up an interval, and is left out when nothing happened."""

import pytest

from edged.domain.samples.prediction import Prediction
from edged.services.inference.report import InferReport


def prediction(label="cat", latency_ms=10.0, anomaly=None, threshold=None):
    return Prediction("cam", 0, 0, 0, None, label, 0.5, {}, 3, latency_ms, 4.0, anomaly, threshold)


@pytest.fixture
def report():
    report = InferReport(10.0)
    report.begin(100.0)
    return report


def test_a_line_has_the_counts_the_rate_and_the_latencies(report, log_lines):
    report.predicted([prediction(), prediction(latency_ms=30.0)], ["cat", None])
    report.predicted([prediction()], ["dog"])
    report.skipped(2)
    report.write(102.0)
    (line,) = log_lines("infer.predicted")
    assert (line["generation"], line["samples"], line["skipped"]) == (3, 3, 2)
    assert (line["labelled"], line["correct"]) == (2, 1)
    assert (line["samples_per_s"], line["latency_p50_ms"], line["compute_ms"]) == (1.5, 10.0, 8.0)
    assert "anomalous" not in line


def test_latencies_that_clocks_made_absurd_are_counted_apart(report, log_lines):
    report.predicted([prediction(), prediction(latency_ms=None), prediction(latency_ms=None)], [None] * 3)
    report.write(102.0)
    report.predicted([prediction(latency_ms=None)], [None])
    report.write(104.0)
    some, none = log_lines("infer.predicted")
    assert (some["samples"], some["latency_p95_ms"], some["without_latency"]) == (3, 10.0, 2)
    assert (none["samples"], none["latency_p50_ms"], none["without_latency"]) == (1, None, 1)


def test_an_autoencoders_line_counts_anomalies_instead_of_labels(report, log_lines):
    report.predicted(
        [prediction(None, anomaly=2.0, threshold=1.0), prediction(None, anomaly=0.5, threshold=1.0)], [None] * 2
    )
    report.write(101.0)
    (line,) = log_lines("infer.predicted")
    assert (line["anomalous"], line["labelled"]) == (1, 0)


def test_the_line_is_due_after_ten_seconds_and_the_next_interval_starts_empty(report, log_lines):
    report.predicted([prediction()], ["cat"])
    for now_s in (109.9, 110.0, 120.0):
        report.write_if_due(now_s)
    assert [line["samples"] for line in log_lines("infer.predicted")] == [1]
