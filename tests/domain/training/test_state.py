"""The training state."""

import numpy as np

from edged.domain.nn.model import Division
from edged.domain.training.state import TrainState


def test_overflowed_weights_are_not_finite():
    state = TrainState({"dense.bias": np.zeros(2, np.float32)}, {}, "0" * 64, Division(2, 16))
    assert state.is_finite()
    state.params["dense.bias"][0] = np.inf
    assert not state.is_finite()
