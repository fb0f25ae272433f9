"""An object of the archive as a file to read from: exact ranges, no read-ahead."""

from edged.adapters.parquet.seekable import Seekable
from edged.errors import BlockAbsent
from edged.ports import ObjectStore


class ObjectFile(Seekable):
    """The object `name` of `size` bytes. Raises what the store raises, and BlockAbsent when it is gone."""

    def __init__(self, objects: ObjectStore, name: str, size: int) -> None:
        super().__init__(size)
        self._objects = objects
        self._name = name

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        length = left if size is None or size < 0 else min(size, left)
        if not length:
            return b""
        found = self._objects.read(self._name, self._at, length)
        if found is None:
            raise BlockAbsent(f"{self._objects.path(self._name)} is gone")
        self._at += len(found)
        return found

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)
