"""The model that the companion serves: the newest deployed by the trainer that passes a test prediction.

Changes only in `take_newest`, so never within a batch.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.aio import run_in_worker
from edged.domain.nn.loss import LossName
from edged.domain.training import anomaly
from edged.errors import EdgedError, FormatError
from edged.log import logger
from edged.ports import CheckpointStore, DeployedModel

Samples = npt.NDArray[np.float32]

Outputs = Callable[[Samples], Samples]
"""From normalised samples [n, *sample shape] to a model's outputs: a classifier's probabilities [n, labels], or an
autoencoder's reconstructions, of the samples' size in any shape."""


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model file: a classifier of `labels`, or an autoencoder if there are none."""

    generation: int
    labels: tuple[str, ...]
    anomaly_threshold: float | None
    outputs: Outputs

    def predict(self, x: Samples) -> Samples:
        """The labels' probabilities [n, labels]; an autoencoder's anomaly scores [n, 1]."""
        outputs = self.outputs(x)
        return outputs if self.labels else anomaly.scores(x, outputs)


class ServedModel:
    """`load` opens a model file or raises an EdgedError; `runtime`: the name of what runs it.

    `loss`: the topology's; a model of the other kind is refused.
    """

    def __init__(
        self,
        models: CheckpointStore,
        load: Callable[[bytes], Outputs],
        shape: tuple[int, ...],
        runtime: str,
        loss: LossName,
    ) -> None:
        self._models = models
        self._load = load
        self._shape = shape
        self._runtime = runtime
        self._is_classifier = loss == "cross_entropy"
        self._newest_seen = -1
        self.current: Model | None = None
        """None before the first."""

    async def take_newest(self) -> None:
        """Serve the newest model; keep the current one when there is no newer one or it is refused.

        A refused generation is not tried again. Cancelled: the current one stays, and the next call tries again.
        """
        began_s = asyncio.get_running_loop().time()
        deployed = await run_in_worker(self._models.newest_model, self._newest_seen)
        if deployed is None:
            return
        try:
            model = await run_in_worker(self._open, deployed)
        except (EdgedError, ValueError) as error:  # ValueError: the file's shape is not the one in its metadata
            self._newest_seen = deployed.generation
            logger().error("infer.model_refused", generation=deployed.generation, reason=str(error))
            return
        self._newest_seen, self.current = deployed.generation, model
        logger().info(
            "infer.model_loaded",
            generation=deployed.generation,
            runtime=self._runtime,
            model_bytes=len(deployed.content),
            load_ms=round((asyncio.get_running_loop().time() - began_s) * 1000, 3),
        )

    def _open(self, deployed: DeployedModel) -> Model:
        """The model, tested with a blank sample: it must give a probability per label, or a number per input number."""
        if deployed.sample_shape != self._shape:
            raise FormatError(f"it takes samples of shape {deployed.sample_shape}, the stream has {self._shape}")
        if bool(deployed.labels) != self._is_classifier:
            kinds = ("an autoencoder", "a classifier") if self._is_classifier else ("a classifier", "an autoencoder")
            raise FormatError(f"it is {kinds[0]}, the topology trains {kinds[1]}")
        outputs = self._load(deployed.content)
        blank = outputs(np.zeros((1, *self._shape), np.float32))
        if self._is_classifier and blank.shape != (1, len(deployed.labels)):
            raise FormatError(f"it gives {blank.shape[-1]} probabilities for {len(deployed.labels)} labels")
        if not self._is_classifier and blank.size != math.prod(self._shape):
            raise FormatError(f"it gives {blank.size} numbers back for a sample of {math.prod(self._shape)}")
        if not np.isfinite(blank).all():
            raise FormatError("its outputs are not finite")
        return Model(deployed.generation, deployed.labels, deployed.anomaly_threshold, outputs)
