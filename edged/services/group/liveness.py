"""Liveness of a training job: batches done, and whether it is blocked on I/O."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class Liveness:
    """Shared by a service's parts, in one task. `num_batches`: mini-batches, and whatever else shows progress."""

    num_batches: int = 0
    is_waiting: bool = False

    def count(self) -> None:
        """Record one more sign of progress."""
        self.num_batches += 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark the service as waiting inside the block, so that a lack of progress is no stall. May be nested."""
        before, self.is_waiting = self.is_waiting, True
        try:
            yield
        finally:
            self.is_waiting = before
