"""What a kind of store does for `store.Store`: one client's calls, as they come, with the client's own errors."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from edged.adapters.objects.bounded import GoesOn
from edged.ports.objects import Listed


class Backend(Protocol):
    """One client of a store. Thread-safe; calls may hang. Names are checked. Errors are the client's own."""

    def put(self, name: str, pieces: Sequence[bytes | memoryview], goes_on: GoesOn) -> bool:
        """Publish the object, durably and whole; False when the name is taken. `goes_on`: before each durable step."""

    def read(self, name: str, offset: int, length: int) -> bytes | None:
        """As of the port; whatever the place is."""

    def size(self, name: str) -> int | None:
        """As of the port; whatever the place is."""

    def pages(self, folder: str, after: str) -> Iterator[Sequence[Listed]]:
        """The objects that the port lists, some at a time."""

    def folders(self, folder: str) -> Sequence[str]:
        """The names of the folders in `folder`, in any order."""

    def delete(self, name: str) -> None:
        """As of the port."""

    def sweep(self, folder: str) -> None:
        """As of the port."""

    def create(self) -> None:
        """As of the port."""

    def require_place(self) -> None:
        """Raise while the place itself is not there."""

    def notes(self, name: str) -> Sequence[str]:
        """What people should know of the store, of which an object of that name has just been made."""
