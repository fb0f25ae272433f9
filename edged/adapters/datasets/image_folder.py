"""Folders of images as a data set: which files are images, by their first bytes, and each read on demand.

Decodes nothing. See also: `tree` (which files there are), `layout` (their splits and classes), `transcode` (proving).
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from edged.adapters import images
from edged.adapters.datasets.layout import layout
from edged.adapters.datasets.tree import Tree
from edged.domain.topology import Dtype
from edged.errors import FormatError, StorageError
from edged.files import open_regular, read_regular
from edged.ports import Format, Item, LeftOut, Omissions

_MAX_BYTES = 64 << 20
_HEAD_BYTES = 256

_OTHER_IMAGES = (
    b"II*\0", b"MM\0*", b"II+\0", b"8BPS", b"\xff\x0a", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
    b"\0\0\1\0", b"SIMPLE  =", b"P4\n", b"P5\n", b"P6\n", b"FUJIFILM", b"<svg",
)  # fmt: skip
"""The beginnings of TIFF (and raw pictures that are made of it), PSD, JPEG XL, JPEG 2000, ICO, FITS, PNM, RAF, SVG."""

_POINTERS = (b"version https://git-lfs.", b"/annex/objects/")

Files = Mapping[str, tuple[tuple[str | None, str, str | None], ...]]
"""For each split, (label, name below the folder, path to open if it is another), sorted by name."""


@dataclass(frozen=True)
class ImageFolder:
    """The images below `folder`, in files of any name. `omissions`: of `open_image_folder`."""

    name: str
    folder: Path
    labels: tuple[str, ...]
    files: Files
    left_out: tuple[LeftOut, ...]
    shape: None = None
    dtype: Dtype = "uint8"
    label_place: str = "the names of the folders"

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.files)

    def count(self, split: str) -> int:
        return len(self.files[split])

    def sample(self, split: str, index: int) -> Item:
        if not 0 <= index < self.count(split):
            raise IndexError(index)
        label, name, path = self.files[split][index]
        content = _read(self.folder / (path or name))
        codec = images.format_of(content[: images.HEAD_BYTES])
        if codec is None:
            raise FormatError(f"{self.folder / name}: an image when it was listed, and none now")
        return Item(label, cast("Format", codec), content)

    def label(self, split: str, index: int) -> str | None:
        return self.files[split][index][0]

    def item_name(self, split: str, index: int) -> str:
        return self.files[split][index][1]


def open_image_folder(
    folder: Path, *, follow_links: bool = False, on_listed: Callable[[int], object] = lambda _: None
) -> ImageFolder:
    """List `folder`, and look at the first bytes of each file; `on_listed` gets their number as it grows.

    Raises FormatError when it has no image, StorageError when it cannot be listed.
    """
    if (folder / "snapshots").is_dir() and (folder / "blobs").is_dir():
        raise FormatError(f"{folder} is a Hugging Face cache: name one of the folders in {folder / 'snapshots'}")
    omissions = Omissions()
    paths: dict[str, str] = {}
    for file in Tree(folder, omissions, follow_links=follow_links).files():
        on_listed(1)
        if (reason := _reason(file.path)) is None:
            paths[file.name] = file.path
        else:
            omissions.add(reason, file.name)
    splits = layout(paths, omissions)
    left_out = omissions.listed()
    if not splits:
        why = "".join(f"\n  left out: {each}" for each in left_out)
        raise FormatError(f"{folder}: no images (JPEG, PNG, WebP, GIF, BMP){why}")
    root = os.path.realpath(folder)
    files = {
        split: tuple((label, each, _if_elsewhere(paths[each], root, each)) for each, label in labels.items())
        for split, labels in splits.items()
    }
    found = {label for labels in splits.values() for label in labels.values() if label is not None}
    name = folder.name if folder.name not in {"", ".."} else Path(root).name
    return ImageFolder(name, Path(root), tuple(sorted(found)), files, left_out)


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, _MAX_BYTES)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def _if_elsewhere(path: str, root: str, name: str) -> str | None:
    return None if path == f"{root}/{name}" else path


def _reason(path: str) -> str | None:
    """Why the file is no image of the data set, if it is none."""
    try:
        with open_regular(Path(path)) as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return "unreadable"
    if images.format_of(head) is not None:
        return None
    if not head:
        return "empty"
    if head.startswith(_POINTERS):
        return "pointer"
    return "other_image" if head.startswith(_OTHER_IMAGES) or head[4:8] == b"ftyp" else "not_an_image"
