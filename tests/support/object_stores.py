"""What tests do with stores of objects: numbered objects, and faults in the middle of what is done with them."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, overload

import pytest

from edged.adapters.objects.store import Store
from edged.errors import ArchiveUnavailable
from edged.ports import ObjectStore

R = TypeVar("R")


def until_it_works(function: Callable[[], R]) -> R:
    """What the function returns, once the store is there."""
    while True:
        with contextlib.suppress(ArchiveUnavailable):
            return function()


def content(number: int, num_bytes: int = 300_000) -> bytes:
    """Of the object with this number."""
    return (b"%08d" % number) * (num_bytes // 8)


def publish_and_read(store: ObjectStore, num_objects: int, disturb: Callable[[], object]) -> None:
    """Publish numbered objects and read them again and again while `disturb` runs; each is there once, as it was."""
    published: list[int] = []
    wrong: list[int] = []
    ends = threading.Event()

    def is_right(number: int) -> bool:
        return until_it_works(partial(store.read, f"f/{number:03d}", 0, 400_000)) == content(number)

    def publish() -> None:
        for number in range(num_objects):
            until_it_works(partial(store.publish, f"f/{number:03d}", [content(number)]))
            published.append(number)

    def read() -> None:
        while not ends.is_set():
            wrong.extend(number for number in tuple(published) if not is_right(number))

    writer, reader = threading.Thread(target=publish), threading.Thread(target=read)
    writer.start()
    reader.start()
    disturb()
    writer.join()
    ends.set()
    reader.join()
    assert wrong == []
    listed = until_it_works(lambda: list(store.list("f")))
    assert [each.name for each in listed] == [f"{number:03d}" for number in range(num_objects)]
    assert all(map(is_right, range(num_objects)))


class Steps:
    """The changes that were made at a store, before each and behind it; at some of them `acts` are done, uncounted."""

    def __init__(self, acts: Mapping[int, Callable[[], object]]) -> None:
        self.taken = 0
        self._acts = acts
        self._is_acting = False

    def take(self) -> None:
        if self._is_acting:
            return
        self.taken += 1
        if self.taken in self._acts:
            self._is_acting = True
            try:
                self._acts[self.taken]()
            finally:
                self._is_acting = False


def _interrupt() -> None:
    raise KeyboardInterrupt


def interrupted(monkeypatch: pytest.MonkeyPatch, fatal: int) -> contextlib.AbstractContextManager[Steps]:
    """Inside, whatever publishes or deletes objects is interrupted at that step."""
    return meanwhile(monkeypatch, {fatal: _interrupt})


@contextlib.contextmanager
def meanwhile(monkeypatch: pytest.MonkeyPatch, acts: Mapping[int, Callable[[], object]]) -> Iterator[Steps]:
    """Inside, others act at these steps of whatever publishes or deletes objects."""
    steps = Steps(acts)
    with monkeypatch.context() as patch:
        for call in ("publish", "delete"):
            really = getattr(Store, call)

            def stepped(store: Store, *args: Any, really: Callable[..., Any] = really) -> Any:
                steps.take()
                result = really(store, *args)
                steps.take()
                return result

            patch.setattr(Store, call, stepped)
        yield steps


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
