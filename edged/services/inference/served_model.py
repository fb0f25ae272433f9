"""The model that the companion serves: the newest deployed by the trainer that passes a test prediction.

Changes only in `take_newest`, so never within a batch. Where the newest cannot be opened, the one before it serves; one
that could not be proven is tried again, after pauses that grow.
"""

import asyncio
import contextlib
import contextvars
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edged.aio import Backoff, run_in_worker
from edged.domain.counted import counted
from edged.domain.nn.spec import LossName
from edged.domain.training import anomaly
from edged.errors import EdgedError, FormatError, NotProven, StateFolderRefused, StorageError
from edged.hanging import degraded_while_hanging
from edged.log import logger
from edged.ports import CheckpointStore, DeployedModel, Health

Samples = npt.NDArray[np.float32]

Outputs = Callable[[Samples], Samples]
"""From normalised samples [n, *sample shape] to a model's outputs: a classifier's probabilities [n, labels], or an
autoencoder's reconstructions, of the samples' size in any shape."""

Load = Callable[[bytes], Outputs]
"""Opens a model file, or raises an EdgedError."""


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model file: a classifier of `labels`, or an autoencoder if there are none."""

    generation: int
    labels: tuple[str, ...]
    anomaly_threshold: float | None
    outputs: Outputs
    runtime: str
    num_bytes: int

    def predict(self, x: Samples) -> Samples:
        """The labels' probabilities [n, labels]; an autoencoder's anomaly scores [n, 1]."""
        outputs = self.outputs(x)
        return outputs if self.labels else anomaly.scores(x, outputs)


_FIRST_RETRY_S, _MAX_RETRY_S = 5.0, 300.0
"""Pauses before an unproven model is tried again: a process that cannot be started now is needed elsewhere."""

_LOOK_S = 0.5
"""The folder is looked into no more often: a model comes with a checkpoint, and samples wait for each look."""


class _Opened(NamedTuple):
    """`newest`: the newest generation that was seen. `refused`, `unproven`: generations, and why."""

    newest: int
    model: Model | None
    refused: Sequence[tuple[int, str]]
    unproven: Sequence[tuple[int, str]]


class ServedModel:
    """`load` opens a model file or raises an EdgedError; `runtime`: the name of what runs it.

    `loss`: the topology's; a model of the other kind is refused. `last_resort`: the name of what runs a file when
    `load` opens none, and what opens it then.
    """

    def __init__(
        self,
        models: CheckpointStore,
        health: Health,
        load: Load,
        shape: tuple[int, ...],
        runtime: str,
        loss: LossName,
        last_resort: tuple[str, Load] | None = None,
    ) -> None:
        self._models = models
        self._health = health
        self._ways = [(runtime, load), *([last_resort] if last_resort else [])]
        self._shape = shape
        self._is_classifier = loss == "cross_entropy"
        self._newest_seen = -1
        self._refused: set[int] = set()
        self._tries_of: dict[int, int] = {}
        """Of generations that are not proven yet."""
        self._backoff = Backoff(_FIRST_RETRY_S, _MAX_RETRY_S)
        self._retry_s = self._look_s = 0.0
        self._is_retry = False
        self._opening: asyncio.Future[_Opened] | None = None
        self._began_s = 0.0
        self.current: Model | None = None
        """None before the first."""

    async def take_newest(self, patience_s: float = 0.0) -> None:
        """Serve the newest model that can; keep the current one when there is no newer one, or all are refused.

        To be called often: it looks for a newer one twice a second. A worker thread opens it, which may take long,
        while the current one serves; this waits for it no longer than `patience_s`, and a later call takes it. A
        refused generation is not tried again, one that could not be proven is. Cancelled: nothing is lost. A disk that
        fails is reported (health: disk), and asked again by the next look.

        Raises StateFolderRefused.
        """
        if self._opening is None and asyncio.get_running_loop().time() < self._look_s:
            return
        try:
            await self._take_newest(patience_s)
        except StateFolderRefused:
            raise
        except StorageError as error:
            self._health.degraded("disk", str(error))
        else:
            self._health.recovered("disk")

    async def _take_newest(self, patience_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._opening is None:
            self._is_retry = bool(self._tries_of) and loop.time() >= self._retry_s
            self._look_s = loop.time() + _LOOK_S
            newer_than = min(self._tries_of) - 1 if self._is_retry else self._newest_seen
            with degraded_while_hanging(self._health, "disk"):
                newest = await run_in_worker(self._models.newest_model, newer_than)
            if newest is None:
                if self._is_retry:  # their files are gone
                    self._tries_of.clear()
                return
            self._began_s = loop.time()
            in_context = contextvars.copy_context().run
            self._opening = loop.run_in_executor(None, in_context, self._open_newest, newest, newer_than)
        if patience_s:
            await asyncio.wait([self._opening], timeout=patience_s)
        if not self._opening.done():
            return
        opening, self._opening = self._opening, None
        opened = opening.result()
        self._newest_seen = max(self._newest_seen, opened.newest)
        tries_of = self._remember(opened)
        if opened.model is None:
            return
        self.current = opened.model
        logger().info(
            "infer.model_loaded",
            generation=opened.model.generation,
            runtime=opened.model.runtime,
            model_bytes=opened.model.num_bytes,
            load_ms=round((loop.time() - self._began_s) * 1000, 3),
            tries=tries_of.get(opened.model.generation, 0) + 1,
        )

    def _remember(self, opened: _Opened) -> Mapping[int, int]:
        """Say what was refused, and once what will be tried again; and when. How often each was tried before."""
        before, self._tries_of = self._tries_of, {} if self._is_retry else dict(self._tries_of)
        for generation, reason in opened.refused:
            self._refused.add(generation)
            tries = before.get(generation, 0) + 1
            logger().error("infer.model_refused", generation=generation, reason=reason, tries=tries)
        for generation, reason in opened.unproven:
            if generation not in before:
                logger().warning("infer.model_unproven", generation=generation, reason=reason)
            self._tries_of[generation] = before.get(generation, 0) + 1
        if opened.model is not None and opened.model.runtime == self._ways[0][0]:  # what is older is not wanted now
            newest = opened.model.generation
            self._tries_of = {each: tries for each, tries in self._tries_of.items() if each > newest}
        if opened.unproven:
            self._retry_s = asyncio.get_running_loop().time() + self._backoff.next_s()
        if not self._tries_of:
            self._backoff.reset()
            self._refused.clear()
        return before

    def _open_newest(self, newest: DeployedModel, newer_than: int) -> _Opened:
        """The newest one that can be opened, of those that are newer than that and were not refused before.

        By the last resort only where there is none that was opened without it.
        """
        found: list[DeployedModel] = []
        refused: list[tuple[int, str]] = []
        unproven: list[tuple[int, str]] = []
        usual, *last_resort = self._ways
        is_needed = self.current is None or self.current.runtime != usual[0]
        candidate: DeployedModel | None = newest
        while candidate is not None:
            try:
                if candidate.generation not in self._refused:
                    return _Opened(newest.generation, self._open(candidate, *usual), refused, unproven)
            except NotProven as error:
                unproven.append((candidate.generation, str(error)))
            except (EdgedError, ValueError) as error:  # ValueError: the file's shape is not the one in its metadata
                refused.append((candidate.generation, str(error)))
            found.append(candidate)
            candidate = self._models.newest_model(newer_than, older_than=candidate.generation)
        served = -1 if self.current is None else self.current.generation
        for way in last_resort if is_needed else ():
            for candidate in found:
                with contextlib.suppress(EdgedError, ValueError):
                    if candidate.generation > served:
                        return _Opened(newest.generation, self._open(candidate, *way), refused, unproven)
        return _Opened(newest.generation, None, refused, unproven)

    def _open(self, deployed: DeployedModel, runtime: str, load: Load) -> Model:
        """The model, tested with a blank sample: it must give a probability per label, or a number per input number."""
        if deployed.sample_shape != self._shape:
            raise FormatError(f"it takes samples of shape {deployed.sample_shape}, the stream has {self._shape}")
        if bool(deployed.labels) != self._is_classifier:
            kinds = ("an autoencoder", "a classifier") if self._is_classifier else ("a classifier", "an autoencoder")
            raise FormatError(f"it is {kinds[0]}, the topology trains {kinds[1]}")
        outputs = load(deployed.content)
        blank = outputs(np.zeros((1, *self._shape), np.float32))
        if self._is_classifier and blank.shape != (1, len(deployed.labels)):
            raise FormatError(
                f"it gives {counted(blank.shape[-1], 'probability')} for {counted(len(deployed.labels), 'label')}"
            )
        if not self._is_classifier and blank.size != math.prod(self._shape):
            raise FormatError(f"it gives {blank.size} numbers back for a sample of {math.prod(self._shape)}")
        if not np.isfinite(blank).all():
            raise FormatError("its outputs are not finite")
        return Model(
            deployed.generation,
            deployed.labels,
            deployed.anomaly_threshold,
            outputs,
            runtime,
            len(deployed.content),
        )
