"""When a training job is saved, and how it is restored.

Covers restoring, saving and deploying through the port CheckpointStore. See also: `domain.training.checkpoint` for what
a checkpoint holds.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import numpy as np
import numpy.typing as npt

from edged.aio import run_in_worker
from edged.domain.training import checkpoint
from edged.domain.training.state import Params, Position, TrainState
from edged.errors import AnotherVersion, StorageError, TopologyMismatch
from edged.hanging import degraded_while_hanging
from edged.log import ThrottledLog, logger
from edged.ports import CheckpointStore, DeployedModel, Health

Samples = npt.NDArray[np.float32]

Exporter = Callable[[Params, Samples | None], bytes]
"""Weights to a model file: float32, or int8 where samples [n, *sample shape] are given to calibrate it."""


class Checkpointing:
    """Checkpoints of one job, on demand, and when the last is `every_s` seconds old. Used by one task.

    `labels`: of a classifier; an autoencoder has none.

    A disk that fails is reported (health: disk, `checkpoint.failed`) and retried later; training continues. One that
    hangs is reported, and waited for.
    Cancelled: each method first finishes its write.
    """

    def __init__(
        self,
        store: CheckpointStore,
        health: Health,
        export: Exporter,
        *,
        job: str,
        labels: tuple[str, ...],
        sample_shape: tuple[int, ...],
        every_s: Callable[[], float],
    ) -> None:
        self._store = store
        self._health = health
        self._export = export
        self._job = job
        self._labels = labels
        self._sample_shape = sample_shape
        self._every_s = every_s
        self._since_s = 0.0
        self._saved: tuple[Position, str] | None = None
        self._lines = ThrottledLog()

    async def restore(self) -> TrainState | None:
        """The newest checkpoint that is not damaged; None without one. Damaged ones are kept aside.

        Raises TopologyMismatch when it is another job's, AnotherVersion when it is in another format: then all stay
        where they are. StorageError when damaged ones alone are there and cannot be kept aside: saving deletes them.
        """
        self._postpone()
        with degraded_while_hanging(self._health, "disk"):
            state = await run_in_worker(self._restore)
        self._saved = None if state is None else _identity(state)
        return state

    def is_due(self, now_s: float) -> bool:
        """Whether `every_s` seconds, as it is now, have passed since the last save. From any thread.

        `now_s`: by the event loop's clock.
        """
        return now_s >= self._since_s + self._every_s()

    async def save(self, state: TrainState) -> None:
        """Make `state` durable, unless it is already. The caller does not change it meanwhile."""
        self._postpone()
        if _identity(state) != self._saved:
            await self._attempt("save", self._save, state)

    async def deploy(self, state: TrainState, calibration: Samples | None = None) -> None:
        """Deploy the model of `state` to the companion, unless it has it; with `calibration` an int8 one.

        Replaces a model of a higher generation, which is from before a rollback.
        """
        await self._attempt("deploy", partial(self._deploy, calibration=calibration), state)

    def _postpone(self) -> None:
        self._since_s = asyncio.get_running_loop().time()

    def _restore(self) -> TrainState | None:
        damaged: list[tuple[int, StorageError]] = []
        for generation, blob in self._store.checkpoints():
            try:
                if isinstance(blob, StorageError):
                    raise blob
                state = checkpoint.decode(blob, job=self._job)
            except StorageError as error:
                damaged.append((generation, error))
                continue
            except (TopologyMismatch, AnotherVersion) as error:
                raise type(error)(f"{self._store.location}: {error}") from error
            self._set_aside(damaged, is_needed=False)
            logger().info("checkpoint.restored", generation=generation, epoch=state.position.epoch, bytes=len(blob))
            return state
        if damaged:
            kept = self._set_aside(damaged, is_needed=True)
            logger().error("checkpoint.none_usable", folder=self._store.location, kept_as=kept, err=str(damaged[0][1]))
        return None

    def _set_aside(self, damaged: Sequence[tuple[int, StorageError]], *, is_needed: bool) -> list[str]:
        """Keep them aside, the oldest first, and say so; their names. Raises StorageError if that `is_needed`."""
        names: list[str] = []
        for generation, error in reversed(damaged):
            name = ""
            with contextlib.nullcontext() if is_needed else contextlib.suppress(StorageError):
                name = self._store.set_aside(generation)
            logger().warning("checkpoint.skipped", generation=generation, err=str(error), kept_as=name)
            names.append(name)
        return names

    async def _attempt(self, what: str, write: Callable[[TrainState], None], state: TrainState) -> None:
        try:
            with degraded_while_hanging(self._health, "disk"):
                await run_in_worker(write, state)
        except StorageError as error:
            self._lines.error("checkpoint.failed", what, generation=state.generation, err=str(error))
            self._health.degraded("disk", str(error))
        else:
            self._health.recovered("disk")

    def _save(self, state: TrainState) -> None:
        begin = perf_counter()
        blob = checkpoint.encode(state)
        self._store.save(blob, state.generation)
        self._saved = _identity(state)
        logger().info("checkpoint.saved", generation=state.generation, bytes=len(blob), ms=_ms_since(begin))

    def _deploy(self, state: TrainState, calibration: Samples | None) -> None:
        newest = self._store.newest_model(newer_than=state.generation - 1)
        if newest is not None and newest.generation == state.generation:
            return
        begin = perf_counter()
        content = self._export(state.params, calibration)
        threshold = state.history[-1].anomaly_threshold if state.history else None
        self._store.deploy(DeployedModel(state.generation, content, self._labels, self._sample_shape, threshold))
        logger().info(
            "checkpoint.deployed",
            generation=state.generation,
            format="float32" if calibration is None else "int8",
            bytes=len(content),
            ms=_ms_since(begin),
        )


def _identity(state: TrainState) -> tuple[Position, str]:
    """Distinguishes states of the job: after a group's log was recreated, the same steps have another log state."""
    return state.position, state.exchange


def _ms_since(begin: float) -> float:
    return round((perf_counter() - begin) * 1e3, 1)
