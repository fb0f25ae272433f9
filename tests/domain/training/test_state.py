"""The training state."""

import numpy as np
import pytest

from edged.domain.nn.model import Division
from edged.domain.training.state import MAX_HISTORY, EpochMetrics, Position, TrainState


def test_overflowed_weights_are_not_finite():
    state = TrainState({"dense.bias": np.zeros(2, np.float32)}, {}, "0" * 64, Division(2, 16))
    assert state.is_finite()
    state.params["dense.bias"][0] = np.inf
    assert not state.is_finite()


@pytest.mark.parametrize(
    ("position", "with_metrics", "num_useless"),
    [
        (0, range(0), 0),
        (3, range(0), 3),
        (5, [1, 2, 4], 2),
        (MAX_HISTORY + 7, range(5, MAX_HISTORY + 5), 2),  # 0 to 4 may have had metrics, too
    ],
    ids=["before the first", "all", "gaps", "the oldest are forgotten"],
)
def test_epochs_without_metrics_did_not_count(position, with_metrics, num_useless):
    history = tuple(EpochMetrics(epoch, epoch, 1.0, None, None, None) for epoch in with_metrics)
    state = TrainState({}, {}, "0" * 64, Division(2, 16), Position(epoch=position), history=history)
    assert state.num_useless == num_useless
