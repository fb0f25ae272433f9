"""The table of scores."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain import tensors
from edged.domain.epochs.scores import ScoreTable
from edged.errors import FormatError
from tests.domain.epochs.test_plan import even
from tests.domain.epochs.test_split import snapshot_of

PLENTY = 1 << 20


def table(budget: int = PLENTY) -> ScoreTable:
    return ScoreTable(even(5), budget)


@given(st.permutations(range(100)), st.integers(1, 100))
def test_the_score_of_an_id_is_the_one_measured_on_its_data(ids, n):
    scores, ids = table(), np.array(ids[:n])
    scores.update(ids, (ids + 1).astype(np.float32))
    assert scores.of(ids).tolist() == (ids + 1).tolist()
    assert scores.visits(ids).tolist() == [1] * n


def test_a_second_visit_moves_the_score_partially():
    scores, ids = table(), np.array([7])
    scores.update(ids, np.array([1.0], np.float32))
    scores.update(ids, np.array([2.0], np.float32))
    assert 1 < scores.of(ids)[0] < 2
    assert scores.visits(ids)[0] == 2


def test_both_scores_of_a_repeated_id_count():
    scores = table()
    scores.update(np.array([7, 7]), np.array([1.0, 3.0], np.float32))
    assert scores.of(np.array([7]))[0] == 2


def test_samples_never_seen_have_the_mean():
    scores = table()
    assert scores.of(np.array([0]))[0] == 1
    scores.update(np.array([1, 2]), np.array([2.0, 4.0], np.float32))
    assert scores.of(np.array([0]))[0] == 3
    assert scores.mean(limit=2.0) == 2


def test_scores_that_are_not_finite_are_left_out_and_large_ones_clipped():
    scores = table()
    scores.update(np.array([1, 2, 3]), np.array([np.nan, np.inf, 1e30], np.float32))
    assert scores.visits(np.array([1, 2, 3])).tolist() == [0, 0, 1]
    assert np.isfinite(scores.of(np.array([3])))[0]


def test_above_its_budget_a_table_keeps_scores_by_block():
    scores = table(100)
    assert scores.is_by_block
    assert scores.num_bytes <= 100
    scores.update(np.arange(20, 40), np.full(20, 3.0, np.float32))
    assert scores.of(np.array([25]))[0] == 3
    scores.update(np.arange(20), np.full(20, 1.0, np.float32))
    assert scores.mean() == 2
    scores.update(np.array([25]), np.array([1000.0], np.float32))
    assert 3 < scores.of(np.array([39]))[0] < 30


@pytest.mark.parametrize("budget", [PLENTY, 100])
def test_a_table_is_encoded_and_loaded(budget):
    scores, again = table(budget), table(budget)
    scores.update(np.arange(0, 60, 3), np.arange(20, dtype=np.float32))
    again.load(scores.encode())
    assert again.of(np.arange(100)).tolist() == scores.of(np.arange(100)).tolist()
    again.update(np.array([0]), np.array([9.0], np.float32))  # what was read can be written


def test_a_table_of_another_snapshot_or_a_broken_one_is_refused():
    scores, good = table(), table().encode()
    bad: dict[str, npt.NDArray[Any]] = {"scores": np.full(100, -1, np.float16), "visits": np.zeros(100, np.uint8)}
    for blob in (ScoreTable(even(6), PLENTY).encode(), table(100).encode(), good[:-1], b""):
        with pytest.raises(FormatError):
            scores.load(blob)
    for broken in (bad, {**bad, "scores": bad["scores"] * np.nan}, {**bad, "visits": np.zeros(9, np.uint8)}):
        with pytest.raises(FormatError):
            scores.load(tensors.encode(broken, {"by": "sample"}))


def test_a_copy_does_not_change_with_its_original():
    scores = table()
    copy = scores.snapshot()
    scores.update(np.array([1]), np.array([5.0], np.float32))
    assert copy.is_empty
    assert not scores.is_empty


def test_scores_are_kept_as_the_archive_grows():
    old = snapshot_of([("pi-a", 3, 300), ("pi-c", 4, 400)])
    new = snapshot_of([("pi-a", 3, 300), ("pi-b", 7, 700), ("pi-c", 4, 400)])
    scores = ScoreTable(old, PLENTY)
    scores.update(np.arange(7), np.arange(1, 8, dtype=np.float32))
    grown = scores.grown(new, PLENTY)
    assert grown.of(np.array([0, 1, 2, 10, 11, 12, 13])).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert not grown.visits(np.arange(3, 10)).any()
    by_block = scores.grown(new, 10)
    assert by_block.of(np.array([0, 12])).tolist() == [2, 5.5]
    assert by_block.grown(new, 10).of(np.array([0, 12])).tolist() == [2, 5.5]


def test_quantiles_span_the_scores_seen():
    scores = table()
    assert not len(scores.quantiles())
    scores.update(np.arange(100), np.arange(100, dtype=np.float32))
    assert scores.quantiles()[[0, 512, -1]].tolist() == pytest.approx([0, 49.5, 99], abs=0.1)
