"""What tests do with real stores of objects: numbered objects, and doing something in the middle of a publication."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, overload

from edged.errors import ArchiveUnavailable

R = TypeVar("R")


def until_it_works(function: Callable[[], R]) -> R:
    """What the function returns, once the store is there."""
    while True:
        with contextlib.suppress(ArchiveUnavailable):
            return function()


def content(number: int, num_bytes: int = 300_000) -> bytes:
    """Of the object with this number."""
    return (b"%08d" % number) * (num_bytes // 8)


class Interrupted(Sequence[bytes]):
    """Pieces; `act` is called, once, before the one with this number is handed over."""

    def __init__(self, pieces: Sequence[bytes], at: int, act: Callable[[], object]) -> None:
        self._pieces = pieces
        self._at = at
        self._act: Callable[[], object] | None = act

    def __len__(self) -> int:
        return len(self._pieces)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        return self._pieces[index]

    def __iter__(self) -> Iterator[bytes]:
        for number, piece in enumerate(self._pieces):
            if number == self._at and self._act is not None:
                act, self._act = self._act, None
                act()
            yield piece
