"""Predictions as messages: what goes in comes out, and what is none is refused."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.samples.prediction import MAX_PROBABILITIES, Identity, Prediction, decode, encode, most_probable
from edged.errors import FormatError

EXAMPLE = Prediction(
    "cam", 0, 7, 1_700_000_000_000, 1_699_999_999_990, "høg", 0.75, {"høg": 0.75, "low": 0.25}, 3, 12.5, 1.25
)
ANOMALY = Prediction("cam", 0, 7, 1_700_000_000_000, 1_699_999_999_990, None, None, {}, 3, 12.5, 1.25, 0.5, 0.25)
OF_EACH = set(json.loads(encode(EXAMPLE))) & set(json.loads(encode(ANOMALY)))


def as_fields(prediction: Prediction) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(encode(prediction))
    return fields


def test_a_prediction_survives_encoding_and_decoding():
    assert decode(encode(EXAMPLE)) == EXAMPLE
    assert decode(encode(ANOMALY)) == ANOMALY
    assert decode(encode(replace(ANOMALY, anomaly_threshold=None))) == replace(ANOMALY, anomaly_threshold=None)
    assert decode(encode(replace(EXAMPLE, id="a:7"))) == replace(EXAMPLE, id="a:7")
    without_times = replace(EXAMPLE, sampled_ms=None, latency_ms=None)
    assert decode(encode(without_times)) == without_times
    assert EXAMPLE.identity == Identity("cam", 0, 7, 1_700_000_000_000)


def test_what_a_model_does_not_give_is_not_in_the_message():
    assert set(json.loads(encode(EXAMPLE))) - OF_EACH == {"label", "probability", "probabilities"}
    assert set(json.loads(encode(ANOMALY))) - OF_EACH == {"anomaly", "anomaly_threshold"}


def test_a_sample_is_anomalous_above_the_threshold_alone():
    assert ANOMALY.is_anomalous
    assert not replace(ANOMALY, anomaly=0.25).is_anomalous
    assert not replace(ANOMALY, anomaly_threshold=None).is_anomalous
    assert not EXAMPLE.is_anomalous


def test_fields_from_a_later_version_are_ignored():
    assert decode(json.dumps(as_fields(EXAMPLE) | {"colour": "red"}).encode()) == EXAMPLE


def test_whole_numbers_pass_for_floats():
    assert decode(json.dumps(as_fields(EXAMPLE) | {"latency_ms": 12}).encode()).latency_ms == 12.0


@pytest.mark.parametrize(
    "changes",
    [
        {"device": 1},
        {"offset": "7"},
        {"offset": True},
        {"offset": 7.0},
        {"id": 7},
        {"probability": "high"},
        {"probability": None},
        {"latency_ms": float("nan")},
        {"latency_ms": 10**400},
        {"probabilities": [0.5, 0.5]},
        {"probabilities": {"low": "much"}},
    ],
)
def test_a_field_of_another_type_is_refused(changes):
    with pytest.raises(FormatError, match=r"prediction's"):
        decode(json.dumps(as_fields(EXAMPLE) | changes).encode())


@pytest.mark.parametrize("changes", [{"anomaly": "much"}, {"anomaly": None}, {"anomaly_threshold": float("inf")}])
def test_an_anomaly_that_is_no_number_is_refused(changes):
    with pytest.raises(FormatError, match=r"prediction's anomaly"):
        decode(json.dumps(as_fields(ANOMALY) | changes).encode())


@pytest.mark.parametrize("name", sorted(set(as_fields(EXAMPLE)) - {"sampled_ms", "latency_ms"}))
def test_a_missing_field_is_refused(name):
    fields = as_fields(EXAMPLE)
    del fields[name]
    with pytest.raises(FormatError, match=name):
        decode(json.dumps(fields).encode())


@pytest.mark.parametrize("value", [b"", b"[]", b"null", b"\xff", b"[" * 50_000, b" " * 100_000])
def test_what_is_no_prediction_is_refused(value):
    with pytest.raises(FormatError):
        decode(value)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_format_error(value):
    with pytest.raises(FormatError):
        decode(value)


def test_the_most_probable_labels_come_first_up_to_a_limit():
    probabilities = np.linspace(0, 0.03, 60, dtype=np.float32)
    named = most_probable(probabilities.tolist(), [f"l{i}" for i in range(60)])
    assert list(named) == [f"l{i}" for i in range(59, 59 - MAX_PROBABILITIES, -1)]
    assert list(named.values()) == sorted(named.values(), reverse=True)


def test_a_tie_goes_to_the_first_label():
    assert list(most_probable([0.5, 0.5], ["a", "b"])) == ["a", "b"]
