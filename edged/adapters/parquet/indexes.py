"""Indexes and floors of the archive's sources, as manifests; those indexes that were read last are kept."""

import threading
from collections import OrderedDict

from edged.adapters.parquet.damage import translated
from edged.domain.archive import floor as floors
from edged.domain.archive import index_codec, layout
from edged.domain.archive.floor import Floor
from edged.domain.archive.segment_index import SegmentIndex
from edged.ports import ObjectStore

_MAX_KEPT_BYTES = 32 << 20
"""Some 1.5 million blocks."""


class Indexes:
    """Reads and replaces them; thread-safe. Raises StorageError for a damaged one, ArchiveUnavailable."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, SegmentIndex] = OrderedDict()
        self._num_bytes = 0

    def known(self, folder: str, segment: int) -> SegmentIndex | None:
        """The segment's index, as it was read last; None when it has none. What it names may be there no more."""
        name = index_name(folder, segment)
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        return self.read(folder, segment)[0]

    def read(self, folder: str, segment: int) -> tuple[SegmentIndex | None, int]:
        """The segment's index as it is now, and its version."""
        name = index_name(folder, segment)
        manifest = self._objects.manifest(name)
        if manifest is None:
            self.forget(folder, segment)
            return None, 0
        with translated(self._objects.path(f"{name}/{manifest.version:020d}")):
            index = index_codec.decode(manifest.content, segment)
        self._keep(name, index)
        return index, manifest.version

    def replace(self, folder: str, index: SegmentIndex, version: int) -> bool:
        """Make it the index behind this version; False when another one is."""
        name = index_name(folder, index.segment)
        if not self._objects.replace(name, index_codec.encode(index), version):
            return False
        self._keep(name, index)
        return True

    def forget(self, folder: str, segment: int) -> None:
        """It may be another one by now."""
        with self._lock:
            if (index := self._kept.pop(index_name(folder, segment), None)) is not None:
                self._num_bytes -= index.nbytes

    def floor(self, folder: str) -> tuple[Floor | None, int]:
        """The source's floor, and its version; None of a source that is not there."""
        name = floor_name(folder)
        manifest = self._objects.manifest(name)
        if manifest is None:
            return None, 0
        with translated(self._objects.path(f"{name}/{manifest.version:020d}")):
            return floors.decode(manifest.content), manifest.version

    def raise_floor(self, folder: str, floor: Floor, version: int) -> bool:
        """Make it the floor behind this version; False when another one is."""
        return self._objects.replace(floor_name(folder), floors.encode(floor), version)

    def _keep(self, name: str, index: SegmentIndex) -> None:
        with self._lock:
            before = self._kept.pop(name, None)
            self._kept[name] = index
            self._num_bytes += index.nbytes - (0 if before is None else before.nbytes)
            while self._num_bytes > _MAX_KEPT_BYTES and len(self._kept) > 1:
                self._num_bytes -= self._kept.popitem(last=False)[1].nbytes


def index_name(folder: str, segment: int) -> str:
    """The manifest of the segment's index."""
    return f"{folder}/{layout.segment_name(segment)}/index"


def floor_name(folder: str) -> str:
    """The manifest of the source's floor."""
    return f"{folder}/floor"
