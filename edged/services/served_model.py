"""The model that the companion serves: the newest that the trainer deployed and that has shown it can predict.

Looks only when asked to, so that a model never changes within a batch.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edged.aio import run_in_worker
from edged.errors import EdgedError, FormatError
from edged.log import logger
from edged.ports import CheckpointStore, Classifier, DeployedModel


@dataclass(frozen=True, slots=True)
class Model:
    """A classifier and what its outputs mean."""

    generation: int
    labels: tuple[str, ...]
    classifier: Classifier


class ServedModel:
    """`load` makes a model file's classifier or raises an EdgedError; `runtime` names what it loads with."""

    def __init__(
        self, models: CheckpointStore, load: Callable[[bytes], Classifier], shape: tuple[int, ...], runtime: str
    ) -> None:
        self._models = models
        self._load = load
        self._shape = shape
        self._runtime = runtime
        self._newest_seen = -1
        self.current: Model | None = None
        """None until there is one."""

    async def take_newest(self) -> None:
        """Serve the newest model; stay with the present one when there is none newer or it is refused.

        A refused generation is not tried again. Cancelled: the present one stays, and the next call looks again.
        """
        began_s = asyncio.get_running_loop().time()
        deployed = await run_in_worker(self._models.newest_model, self._newest_seen)
        if deployed is None:
            return
        try:
            model = await run_in_worker(self._open, deployed)
        except (EdgedError, ValueError) as error:  # ValueError: the file's own shape is not what is said beside it
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
        """The model, once it has taken a blank sample of the stream and given a share to each label."""
        if deployed.sample_shape != self._shape:
            raise FormatError(f"it takes samples of shape {deployed.sample_shape}, the stream has {self._shape}")
        classifier = self._load(deployed.content)
        shares = classifier.predict(np.zeros((1, *self._shape), np.float32))
        if shares.shape != (1, len(deployed.labels)):
            raise FormatError(f"it gives {shares.shape[-1]} probabilities for {len(deployed.labels)} labels")
        if not np.isfinite(shares).all():
            raise FormatError("its probabilities are not finite")
        return Model(deployed.generation, deployed.labels, classifier)
