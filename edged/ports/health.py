"""What else of the world fails, and recovers."""

from typing import Protocol


class Health(Protocol):
    """Takes reports of which parts are degraded and which have recovered."""

    def degraded(self, part: str, reason: str, *, awaited: bool = True) -> None:
        """`part` (one word: kafka, archive, disk, cache) is unusable because of `reason`. Repeated calls are cheap.

        `awaited`: services may be waiting for it, so that none counts as stalled.
        """

    def recovered(self, part: str) -> None:
        """`part` works. Cheap when it was not degraded."""
