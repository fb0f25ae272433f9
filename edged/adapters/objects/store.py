"""The port `ObjectStore` on any kind of store: names, deadlines, lost answers, manifests and the probe.

See also: `backend` (what a kind of store does), `bounded` (calls that end).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from edged.adapters.objects.backend import Backend
from edged.adapters.objects.bounded import DEADLINE_S, BoundedClient, GoesOn
from edged.adapters.objects.leftovers import check_writer
from edged.domain.archive import object_name
from edged.errors import ArchiveUnavailable
from edged.ports.objects import Listed, Manifest

_COMPARED_BYTES = 4 << 20
_VERSION = re.compile(r"\d{20}")
_KEPT = 8
"""Versions of a manifest: also for those who are reading one."""

_TRIES = 8
"""Of reading a manifest that others replace all the time, and of publishing what is refused and is not there."""

_PROBE = "_probe"
"""No stream's name."""

R = TypeVar("R")


class Store:
    """A `ports.ObjectStore` over a backend.

    `open_backend`: makes one. `translated`: what an error of it means, with the name that it concerned. `writer`: the
    name of this process among all that write there at a time.
    """

    def __init__(
        self,
        where: str,
        open_backend: Callable[[], Backend],
        translated: Callable[[Exception, str], ArchiveUnavailable],
        writer: str,
        deadline_s: float = DEADLINE_S,
        root: str | None = None,
    ) -> None:
        """`root`: how other programs name the place; None: as `where`."""
        self._where = where
        self._root = (where if root is None else root).rstrip("/")
        self._client = BoundedClient(open_backend, where, deadline_s)
        self._translated = translated
        self._writer = check_writer(writer)

    @property
    def where(self) -> str:
        return self._where

    def path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def publish(self, name: str, pieces: Sequence[bytes | memoryview]) -> bool:
        object_name.check(name)

        def put(backend: Backend, goes_on: GoesOn) -> bool:
            for _ in range(_TRIES):
                if backend.put(name, pieces, goes_on):
                    return True
                size = backend.size(name)
                if size is not None:
                    return _is_own(backend, name, size, pieces, goes_on)
                # Refused for what somebody else does there in the same moment (409 of an S3), or deleted since.
            raise ArchiveUnavailable(f"{self.path(name)}: it is refused as taken, and is not there; it is tried again")

        return self._call(name, put)

    def read(self, name: str, offset: int, length: int) -> bytes | None:
        object_name.check(name)

        def read(backend: Backend, _: GoesOn) -> bytes | None:
            return _unless_lost(backend, backend.read(name, offset, length))

        return self._call(name, read, length)

    def size(self, name: str) -> int | None:
        object_name.check(name)
        return self._call(name, lambda backend, _: _unless_lost(backend, backend.size(name)))

    def list(self, folder: str, after: str = "") -> Iterator[Listed]:
        object_name.check(folder)
        pages = self._call(folder, lambda backend, _: iter(backend.pages(folder, after)))
        is_empty = True
        while (page := self._call(folder, lambda _backend, _: next(pages, None))) is not None:
            is_empty = is_empty and not page
            yield from page
        if is_empty:
            self._call(folder, lambda backend, _: backend.require_place())

    def folders(self, folder: str = "") -> Sequence[str]:
        def names(backend: Backend, _: GoesOn) -> Sequence[str]:
            found = backend.folders(folder and object_name.check(folder))
            if not found:
                backend.require_place()
            return sorted(found)

        return self._call(folder, names)

    def delete(self, name: str) -> None:
        object_name.check(name)

        def delete(backend: Backend, _: GoesOn) -> None:
            backend.delete(name)
            backend.require_place()

        self._call(name, delete)

    def manifest(self, name: str) -> Manifest | None:
        for _ in range(_TRIES):
            versions = self._versions(name)
            if not versions:
                return None
            version, size = versions[-1]
            content = self.read(_version_name(name, version), 0, size)
            if content is not None:
                return Manifest(content, version)
            # It has been replaced and deleted meanwhile.
        raise ArchiveUnavailable(f"{self.path(name)}: others replace it all the time; try again later")

    def version(self, name: str) -> int:
        versions = self._versions(name)
        return versions[-1][0] if versions else 0

    def replace(self, name: str, content: bytes, version: int) -> bool:
        """As the port says. Each version is an object of its own: so no store needs more than put-if-absent.

        The last _KEPT versions are never deleted. So whoever published one, and finds it among those, was the first to
        have its number; before those it may have been published again, by somebody who had been paused.
        """
        own = version + 1
        if not self.publish(_version_name(name, own), [content]):
            return False
        numbers = [number for number, _ in self._versions(name)]
        newest = max(numbers, default=own)
        for number in numbers:
            if number <= newest - _KEPT:
                self.delete(_version_name(name, number))
        return own > newest - _KEPT

    def sweep(self, folder: str) -> None:
        object_name.check(folder)
        self._call(folder, lambda backend, _: backend.sweep(folder))

    def create(self) -> None:
        self._call("", lambda backend, _: backend.create())

    def probe(self) -> Sequence[str]:
        self._call("", lambda backend, _: backend.require_place())
        name = f"{_PROBE}/{self._writer}"
        first, second = b"edged's probe: it may be deleted", b"a second object of that name"
        self.delete(name)
        self._expect(self.publish(name, [first]), "a new object's name is taken")
        self._expect(
            not self.publish(name, [second]),
            "a second object was taken under the name of the first: it does not honour If-None-Match, or a rename "
            "replaces what is there, and two archive nodes would overwrite each other; use a store that does",
        )
        self._expect(self.size(name) == len(first), "an object has another size than was written")
        self._expect(self.read(name, 8, 4) == first[8:12], "a range of an object is not what was written")
        listed = dict(self.list(_PROBE))
        self._expect(listed.get(self._writer) == len(first), "a new object is not listed")
        notes = self._call(name, lambda backend, _: backend.notes(name))
        self.delete(name)
        self._expect(self.size(name) is None, "a deleted object is still there")
        return notes

    def close(self) -> None:
        self._client.close()

    def _expect(self, is_so: bool, otherwise: str) -> None:  # noqa: FBT001 - what is expected
        if not is_so:
            raise ArchiveUnavailable(f"{self._where}: {otherwise}")

    def _versions(self, name: str) -> Sequence[tuple[int, int]]:
        """The manifest's versions and their sizes, in order."""
        return [(int(each.name), each.size) for each in self.list(name) if _VERSION.fullmatch(each.name)]

    def _call(self, name: str, function: Callable[[Backend, GoesOn], R], num_bytes: int = 0) -> R:
        try:
            return self._client.call(function, num_bytes)
        except ArchiveUnavailable:
            raise
        except Exception as error:
            raise self._translated(error, name) from error


def _version_name(name: str, version: int) -> str:
    return f"{name}/{version:020d}"


def _unless_lost(backend: Backend, found: R | None) -> R | None:
    """What was found; nothing only while the place is there, for all is absent where a disk is not mounted."""
    if found is None:
        backend.require_place()
    return found


def _is_own(backend: Backend, name: str, size: int, pieces: Sequence[bytes | memoryview], goes_on: GoesOn) -> bool:
    """Whether just these bytes are what has the name: one's own, whose answer was lost."""
    views = [memoryview(piece).cast("B") for piece in pieces]
    if size != sum(view.nbytes for view in views):
        return False
    offset = 0
    for view in views:
        for begin in range(0, view.nbytes, _COMPARED_BYTES):
            part = view[begin : begin + _COMPARED_BYTES]
            if backend.read(name, offset, part.nbytes) != bytes(part):
                return False
            goes_on()
            offset += part.nbytes
    return True
