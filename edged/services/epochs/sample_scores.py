"""What training learns of each sample, for the sampling modes that draw by it.

Covers the scores of the present epoch, and their form in a checkpoint taken in the middle of it. See also:
`sampler_state` in the domain for what one epoch leaves to the next, `planner` for plans drawn by scores.
"""

import numpy as np

from edged.domain import tensors
from edged.domain.archive.snapshot import Ids
from edged.domain.epochs.importance import Gate
from edged.domain.epochs.plan import CachePlan
from edged.domain.epochs.scores import ScoreTable
from edged.domain.topology import SamplingMode
from edged.domain.training.learner import BatchResult
from edged.errors import FormatError
from edged.log import logger

SCORED: frozenset[SamplingMode] = frozenset({"importance", "shade", "shade_published", "icache", "icache_published"})


class SampleScores:
    """Scores of the samples, and the gate of importance sampling. The planner begins an epoch, the trainer learns.

    By `mode` a sample's score is the one of its gradient ("importance"), or its loss.
    """

    def __init__(self, mode: SamplingMode) -> None:
        self._is_importance = mode == "importance"
        self._table: ScoreTable | None = None
        self.gate = Gate()

    @property
    def table(self) -> ScoreTable:
        """The scores, by the ids of the present epoch's snapshot."""
        assert self._table is not None, "begin() first"
        return self._table

    def begin(self, table: ScoreTable, gate: Gate) -> None:
        """An epoch begins with what the epochs before have learnt; `table` is by the ids of its snapshot."""
        self._table, self.gate = table, gate

    def learn(self, ids: Ids, result: BatchResult) -> None:
        """Take in what a step learnt of samples `ids`, int64 [n]."""
        self.table.update(ids, result.scores if self._is_importance else result.losses)
        self.gate = self.gate.after(result.scores[np.isfinite(result.scores)])

    def encode(self) -> bytes | None:
        """The scores as a safetensors blob, for `load`; None before any plan is drawn."""
        if self._table is None:
            return None
        scores = np.frombuffer(self._table.encode(), np.uint8)
        return tensors.encode({"scores": scores}, {"gate": self.gate.encode()})

    def load(self, plan: CachePlan, blob: bytes) -> None:
        """Resume with what an earlier process had learnt in the epoch of `plan`; nothing from an empty blob.

        A blob that cannot be used is logged and skipped.
        """
        if not blob:
            return
        try:
            arrays, metadata = tensors.decode(blob)
            gate = Gate.decode(metadata.get("gate", ""))
            self.table.load(tensors.require(arrays, "scores", "uint8").tobytes())
        except FormatError as error:
            logger().warning("epoch.memo_skipped", epoch=plan.epoch, err=str(error))
        else:
            self.gate = gate
