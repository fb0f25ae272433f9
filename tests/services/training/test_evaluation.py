"""Evaluation on held-out samples. See also: `test_trainer` for what an epoch's end makes of it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from edged.domain.nn.model import Map, Model
from edged.domain.training.learner import Learner
from edged.services.batches.batcher import MiniBatch
from edged.services.training.evaluation import evaluate
from tests.support.training_world import STREAM, TRAINING

_GIVE_UP_S = 60


async def test_all_lanes_test_a_mini_batch():
    both = threading.Barrier(2, timeout=_GIVE_UP_S)

    class Watched(Model):
        def logits(self, *args: Any, map: Map = map) -> Any:  # noqa: A002
            list(map(lambda _lane: both.wait(), range(2)))
            return super().logits(*args, map=map)

    async def held_out() -> Any:
        for first in (0, 8):
            ids = np.arange(first, first + 8)
            yield MiniBatch(np.ones((8, *STREAM.shape), np.float32), ids % 3, ids, np.ones(8, np.float32))

    learner = Learner(TRAINING, Watched(STREAM.shape, TRAINING.model, lanes=2))
    counted: list[None] = []
    with ThreadPoolExecutor(2) as executor:
        tested = await evaluate(
            learner, learner.initial("test"), TRAINING, held_out(), lambda: counted.append(None), print, executor
        )
    assert (tested.num_samples, len(counted)) == (16, 2)
