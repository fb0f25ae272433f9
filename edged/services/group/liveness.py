"""What one service tells of itself while it works: how far it has come, and whether it waits for something outside."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class Activity:
    """Shared by a service's parts, in one task. `num_batches`: mini-batches, and what else shows that it moves."""

    num_batches: int = 0
    is_waiting: bool = False

    def count(self) -> None:
        """One more."""
        self.num_batches += 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Within, standing still is no fault of the service."""
        before, self.is_waiting = self.is_waiting, True
        try:
            yield
        finally:
            self.is_waiting = before
