"""Folders of images as a data set: a folder per class, or a flat folder of images without labels.

Lists once and reads each file on demand; takes formats from the file names and decodes nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edged.domain.topology import Codec, Dtype
from edged.errors import FormatError, StorageError
from edged.ports import Item

_CODEC_OF_SUFFIX: Mapping[str, Codec] = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
_SPLITS = ("train", "test")
_MAX_BYTES = 64 << 20
ALL = "all"
"""The one split of a data set that is not divided."""

Listing = Mapping[str, tuple[tuple[str | None, Path], ...]]
"""For each split, (label, file) sorted by name."""


@dataclass(frozen=True)
class ImageFolder:
    """Images below `name/[train|test]/<class>/`, `name/<class>/`, or `name/` itself (then without labels)."""

    name: str
    labels: tuple[str, ...]
    files: Listing
    shape: None = None
    dtype: Dtype = "uint8"

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.files)

    def count(self, split: str) -> int:
        return len(self.files[split])

    def sample(self, split: str, index: int) -> Item:
        if not 0 <= index < self.count(split):
            raise IndexError(index)
        label, path = self.files[split][index]
        return Item(label, _CODEC_OF_SUFFIX[path.suffix.lower()], _read(path))


def open_image_folder(folder: Path) -> ImageFolder:
    """List `folder`. Raises FormatError when it has no image, StorageError when it cannot be listed."""
    try:
        split_folders = {split: folder / split for split in _SPLITS if (folder / split).is_dir()}
        files = {split: tuple(_list(path)) for split, path in (split_folders or {ALL: folder}).items()}
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}") from error
    files = {split: entries for split, entries in files.items() if entries}
    if not files:
        raise FormatError(f"{folder}: no images (.jpg, .jpeg, .png), neither in it nor in folders named for classes")
    labels = {label for entries in files.values() for label, _ in entries if label is not None}
    return ImageFolder(folder.name, tuple(sorted(labels)), files)


def _list(folder: Path) -> Iterator[tuple[str | None, Path]]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        yield from ((None, path) for path in _images(folder))
    for path in classes:
        yield from ((path.name, image) for image in _images(path))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _CODEC_OF_SUFFIX and path.is_file())


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    if len(content) > _MAX_BYTES:
        raise FormatError(f"{path}: more than {_MAX_BYTES} bytes")
    return content
