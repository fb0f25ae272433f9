"""The fake of ports.CheckpointStore."""

from collections.abc import Iterator
from typing import TypeVar

from edged.errors import StorageError
from edged.ports import DeployedModel

KEPT = 3
T = TypeVar("T")


class MemoryCheckpoints:
    """Checkpoints and models by generation, sampler states by epoch. `error`: what writes raise, if set.

    Reading the checkpoints in `unreadable` fails.
    """

    def __init__(self) -> None:
        self.error: StorageError | None = None
        self.saved: dict[int, bytes] = {}
        self.aside: list[bytes] = []
        self.unreadable: set[int] = set()
        self.models: dict[int, DeployedModel] = {}
        self.sampler_states: dict[int, bytes] = {}

    @property
    def location(self) -> str:
        return "memory"

    def save(self, checkpoint: bytes, generation: int) -> None:
        self._check()
        self.saved = _newest({**self.saved, generation: checkpoint}, generation)

    def save_sampler_state(self, state: bytes, epoch: int) -> None:
        self._check()
        self.sampler_states = _newest({**self.sampler_states, epoch: state}, epoch)

    def sampler_state(self, epoch: int) -> bytes | None:
        return self.sampler_states.get(epoch)

    def deploy(self, model: DeployedModel) -> None:
        self._check()
        self.models = _newest({**self.models, model.generation: model}, model.generation)

    def checkpoints(self) -> Iterator[tuple[int, bytes | StorageError]]:
        for generation, content in sorted(self.saved.items(), reverse=True):
            yield generation, StorageError("Input/output error") if generation in self.unreadable else content

    def set_aside(self, generation: int) -> str:
        self._check()
        self.aside = [*self.aside, self.saved.pop(generation)][-KEPT:]
        return f"{generation} aside"

    def newest_model(self, newer_than: int = -1, older_than: int | None = None) -> DeployedModel | None:
        newest = max((each for each in self.models if older_than is None or each < older_than), default=-1)
        return self.models[newest] if newest > newer_than else None

    def _check(self) -> None:
        if self.error is not None:
            raise self.error


def _newest(by_generation: dict[int, T], newest: int) -> dict[int, T]:
    kept = sorted(generation for generation in by_generation if generation <= newest)[-KEPT:]
    return {generation: by_generation[generation] for generation in kept}
