"""Checkpoints, sampler states and deployed models."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from edged.errors import StorageError


@dataclass(frozen=True, slots=True)
class DeployedModel:
    """A model file that the companion may serve: a classifier of `labels`, or without any an autoencoder.

    `anomaly_threshold`: see `domain.training.anomaly`; None where no samples were held out.
    """

    generation: int
    content: bytes
    labels: tuple[str, ...]
    sample_shape: tuple[int, ...]
    anomaly_threshold: float | None = None


class CheckpointStore(Protocol):
    """Checkpoints, sampler states and deployed models. Synchronous: callers run it in a worker thread."""

    @property
    def location(self) -> str:
        """Where they are stored, for messages."""

    def save(self, checkpoint: bytes, generation: int) -> None:
        """Durable when it returns (write, fsync, rename, fsync the folder); keeps the 3 newest, if there is room."""

    def save_sampler_state(self, state: bytes, epoch: int) -> None:
        """Durable when it returns; keeps those of this epoch and of the 2 before it."""

    def sampler_state(self, epoch: int) -> bytes | None:
        """The sampler state saved for `epoch`, unvalidated; None when there is none or it cannot be read."""

    def deploy(self, model: DeployedModel) -> None:
        """Publish the model to the companion, atomically; keeps the 3 newest, if there is room."""

    def checkpoints(self) -> Iterable[tuple[int, bytes | StorageError]]:
        """(generation, content) newest first, unvalidated; in place of one that cannot be read comes the error.

        Raises StateFolderRefused for one that this user may not read: it may be whole.
        """

    def set_aside(self, generation: int) -> str:
        """Give this generation's checkpoint another name, under which it counts no more, and return that.

        The 3 that were set aside last are kept. Raises StorageError.
        """

    def newest_model(self, newer_than: int = -1, older_than: int | None = None) -> DeployedModel | None:
        """The newest intact model of a generation between the two; incomplete or altered ones are skipped.

        Raises StorageError when it cannot be told which there are, StateFolderRefused when this user may not.
        """
