"""The fake of ports.ObjectStore, which may do what a store, a network or a person does."""

import threading
from collections.abc import Iterator, Sequence

from edged.adapters.objects.bounded import DEADLINE_S, GoesOn
from edged.adapters.objects.leftovers import is_left, is_temporary, temporary_name
from edged.adapters.objects.store import Store
from edged.domain.archive import object_name
from edged.errors import ArchiveFull, ArchiveUnavailable
from edged.ports.objects import Listed

WHERE = "memory://archive"


class MemoryPlace:
    """Where the objects are, for any number of stores. All fields may be changed at any time.

    `objects`: by name, of others too. `outage`: every call fails, with this reason. `is_there`: without it all is
    absent, as where a disk is not mounted. `is_full`: nothing more can be written. `loses_answers`: what is written is
    there, and its writer never hears of it. `replaces`: it lets a second object take the name of the first.
    `conflicts`: the number of objects that are refused as taken where nothing is, as an S3 answers 409.
    `breaks_after`: of an object that is written so many bytes get there, under its temporary name, and the connection
    breaks. While `goes` is not set, calls hang.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.outage = ""
        self.is_there = True
        self.is_full = False
        self.loses_answers = False
        self.replaces = False
        self.conflicts = 0
        self.breaks_after: int | None = None
        self.goes = threading.Event()
        self.goes.set()
        self.lock = threading.Lock()

    def store(self, writer: str = "arc-1", deadline_s: float = DEADLINE_S) -> Store:
        """A store of this place."""
        return Store(WHERE, lambda: _Memory(self, writer), _translated, writer, deadline_s)

    def cut(self, name: str, num_bytes: int) -> None:
        """Damage an object: that much is left of it."""
        self.objects[name] = self.objects[name][:num_bytes]


class _OutageError(Exception):
    pass


class _FullError(Exception):
    pass


def _translated(error: Exception, name: str) -> ArchiveUnavailable:
    kind = ArchiveFull if isinstance(error, _FullError) else ArchiveUnavailable
    return kind(f"{WHERE}/{name}: {error}")


class _Memory:
    """A `Backend`."""

    def __init__(self, place: MemoryPlace, writer: str) -> None:
        self._place = place
        self._writer = writer

    def put(self, name: str, pieces: Sequence[bytes | memoryview], goes_on: GoesOn) -> bool:
        place = self._reached()
        self.require_place()
        if place.is_full:
            raise _FullError("no space left: make room")
        content = b"".join(pieces)
        if place.breaks_after is not None:
            folder, last = object_name.parts(name)
            temporary = temporary_name(last, self._writer)
            place.objects[f"{folder}/{temporary}" if folder else temporary] = content[: place.breaks_after]
            raise _OutageError("the connection broke")
        self._reached()
        goes_on()
        with place.lock:
            if place.conflicts:
                place.conflicts -= 1
                return False
            if name in place.objects and not place.replaces:
                return False
            place.objects[name] = content
        if place.loses_answers:
            raise _OutageError("the connection broke")
        return True

    def read(self, name: str, offset: int, length: int) -> bytes | None:
        content = self._objects().get(name)
        return None if content is None else content[offset : offset + length]

    def size(self, name: str) -> int | None:
        content = self._objects().get(name)
        return None if content is None else len(content)

    def pages(self, folder: str, after: str) -> Iterator[Sequence[Listed]]:
        found = sorted((*object_name_of(name), len(content)) for name, content in self._objects().items())
        yield [
            Listed(last, size)
            for where, last, size in found
            if where == folder and last > after and not is_temporary(last)
        ]

    def folders(self, folder: str) -> Sequence[str]:
        below = f"{folder}/" if folder else ""
        inside = (name.removeprefix(below) for name in self._objects() if name.startswith(below))
        return sorted({name.partition("/")[0] for name in inside if "/" in name})

    def delete(self, name: str) -> None:
        self._reached().objects.pop(name, None)

    def sweep(self, folder: str) -> None:
        place = self._reached()
        for name in list(place.objects):
            where, last = object_name_of(name)
            if where == folder and is_left(last, self._writer, age_s=0):
                del place.objects[name]

    def create(self) -> None:
        self._reached().is_there = True

    def require_place(self) -> None:
        if not self._reached().is_there:
            raise _OutageError("the archive's folder is not there: is its file system mounted?")

    def notes(self, name: str) -> Sequence[str]:  # noqa: ARG002
        return ()

    def _objects(self) -> dict[str, bytes]:
        place = self._reached()
        return dict(place.objects) if place.is_there else {}

    def _reached(self) -> MemoryPlace:
        self._place.goes.wait()
        if self._place.outage:
            raise _OutageError(self._place.outage)
        return self._place


def object_name_of(name: str) -> tuple[str, str]:
    """The folder and the last part of any name, a foreign one's too."""
    folder, _, last = name.rpartition("/")
    return folder, last
