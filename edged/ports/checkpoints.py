"""Checkpoints, and the deployed models beside them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class DeployedModel:
    """A model file that the companion may serve: a classifier of `labels`, or without any an autoencoder.

    `anomaly_threshold`: see `domain.anomaly`; None where no samples were held out.
    """

    generation: int
    content: bytes
    labels: tuple[str, ...]
    sample_shape: tuple[int, ...]
    anomaly_threshold: float | None = None


class CheckpointStore(Protocol):
    """Checkpoints and the deployed models beside them. Synchronous: callers run it in a worker thread."""

    @property
    def place(self) -> str:
        """Where they are kept, for people."""

    def save(self, checkpoint: bytes, generation: int) -> None:
        """Durable when it returns (write, fsync, rename, fsync the folder); keeps the 3 newest."""

    def save_epoch_memo(self, memo: bytes, epoch: int) -> None:
        """Durable when it returns; keeps those of this epoch and of the 2 before it."""

    def epoch_memo(self, epoch: int) -> bytes | None:
        """The memo saved for `epoch`, unvalidated; None when there is none that can be read."""

    def deploy(self, model: DeployedModel) -> None:
        """Put the model where the companion finds it, atomically; keeps the 3 newest."""

    def checkpoints(self) -> Iterable[tuple[int, bytes]]:
        """(generation, content) newest first, unvalidated; unreadable files are skipped and logged."""

    def newest_model(self, newer_than: int = -1) -> DeployedModel | None:
        """The newest whole model of a generation above `newer_than`; torn or altered ones are skipped."""
