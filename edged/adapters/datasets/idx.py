"""Data sets in the IDX format of MNIST and its successors: one file of images and one of labels per split.

Covers unsigned bytes (type 0x08), plain or gzipped, read strictly. Knows no data set by name.
Format: http://yann.lecun.com/exdb/mnist/, "the IDX file format".
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.domain.counted import counted
from edged.domain.topology import Dtype
from edged.errors import FormatError, StorageError
from edged.files import open_regular
from edged.ports import Item, LeftOut

PREFIX_OF_SPLIT = {"train": "train", "test": "t10k"}
"""The prefix of a split's file names."""

_GZIP = b"\x1f\x8b"
_MAX_BYTES = 4 << 30
_MAX_UNPACKED_BYTES = 1 << 30
_UNSIGNED_BYTE = 0x08


def images_name(split: str) -> str:
    """The name of the split's image file, without ".gz"."""
    return f"{PREFIX_OF_SPLIT[split]}-images-idx3-ubyte"


def labels_name(split: str) -> str:
    """The name of the split's label file, without ".gz"."""
    return f"{PREFIX_OF_SPLIT[split]}-labels-idx1-ubyte"


def splits_in(folder: Path) -> tuple[str, ...]:
    """The splits whose image files are in `folder`."""
    return tuple(split for split in PREFIX_OF_SPLIT if _find(folder, images_name(split)) is not None)


def read(path: Path, ndim: int) -> npt.NDArray[np.uint8]:
    """The array in an IDX file, read-only: mapped when the file is plain, in memory when it is gzipped.

    Raises FormatError unless header and size agree exactly, StorageError when the file cannot be read. No more is
    read or allocated than the header claims, and at most 4 GiB, of which memory holds no more than 1 GiB.
    """
    try:
        with open_regular(path) as file:
            if file.read(len(_GZIP)) == _GZIP:  # whatever its name: browsers unpack what they download, and keep it
                file.seek(0)
                return _read_gzip(gzip.GzipFile(fileobj=file), path, ndim)
            file.seek(0)
            shape = _shape(file.read(_header_bytes(ndim)), path, ndim)
        return _map(path, shape)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FormatError(f"{path}: the gzip data ends early or is damaged") from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def _header_bytes(ndim: int) -> int:
    return 4 + 4 * ndim


def _shape(header: bytes, path: Path, ndim: int) -> tuple[int, ...]:
    if len(header) < _header_bytes(ndim):
        raise FormatError(f"{path}: an IDX header has {_header_bytes(ndim)} bytes, this one {len(header)}")
    magic, *shape = struct.unpack(f">{ndim + 1}I", header)
    wanted = _UNSIGNED_BYTE << 8 | ndim
    if magic != wanted:
        raise FormatError(
            f"{path}: magic number {magic:#010x}, not {wanted:#010x} (unsigned bytes, {counted(ndim, 'axis')})"
        )
    if math.prod(shape) > _MAX_BYTES:
        raise FormatError(f"{path}: claims {math.prod(shape)} bytes; at most {_MAX_BYTES}")
    if 0 in shape[1:]:
        raise FormatError(f"{path}: claims elements of no size")
    return tuple(shape)


def _read_gzip(file: gzip.GzipFile, path: Path, ndim: int) -> npt.NDArray[np.uint8]:
    shape = _shape(file.read(_header_bytes(ndim)), path, ndim)
    num_bytes = math.prod(shape)
    if num_bytes > _MAX_UNPACKED_BYTES:
        raise FormatError(
            f"{path}: claims {num_bytes} bytes; at most {_MAX_UNPACKED_BYTES} are unpacked into memory:"
            " unpack the file, it is mapped then"
        )
    data = file.read(num_bytes)  # grows with the actual data, not with what the header claims
    if len(data) != num_bytes or file.read(1):
        raise FormatError(f"{path}: {'more' if len(data) == num_bytes else 'fewer'} bytes than shape {shape} has")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _map(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    begin = _header_bytes(len(shape))
    if path.stat().st_size != begin + math.prod(shape):
        raise FormatError(f"{path}: {path.stat().st_size - begin} bytes of data do not fill shape {shape}")
    if 0 in shape:
        return np.empty(shape, np.uint8)  # nothing to map
    return np.memmap(path, np.uint8, "r", begin, shape)


@dataclass(frozen=True)
class IdxDataset:
    """The IDX files in one folder. A split's files are opened when first used."""

    folder: Path
    name: str
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    dtype: Dtype = "uint8"
    left_out: tuple[LeftOut, ...] = ()
    label_place: str = "labels.txt beside the IDX files"

    @cached_property
    def _arrays(self) -> dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
        return {}

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self._images(self.splits[0]).shape[1:], 1)

    def count(self, split: str) -> int:
        return len(self._images(split))

    def sample(self, split: str, index: int) -> Item:
        if not 0 <= index < self.count(split):
            raise IndexError(index)
        return Item(self.label(split, index), "raw", self._images(split)[index].tobytes())

    def label(self, split: str, index: int) -> str:
        self._images(split)
        number = int(self._arrays[split][1][index])
        return self.labels[number]

    def item_name(self, split: str, index: int) -> str:
        return f"{split} {index}"

    def _images(self, split: str) -> npt.NDArray[Any]:
        if split not in self.splits:
            raise KeyError(split)
        if split not in self._arrays:
            self._arrays[split] = self._open(split)
        return self._arrays[split][0]

    def _open(self, split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        labels = read(self._path(labels_name(split)), ndim=1)
        images = read(self._path(images_name(split)), ndim=3)
        if len(images) != len(labels):
            raise FormatError(
                f"{self.folder}: {counted(len(images), 'image')} but {counted(len(labels), 'label')} in {split}"
            )
        if len(labels) and labels.max() >= len(self.labels):
            raise FormatError(
                f"{self.folder}: label {labels.max()} in {split}; there are {counted(len(self.labels), 'label')}"
            )
        return images, labels

    def _path(self, name: str) -> Path:
        path = _find(self.folder, name)
        if path is None:
            raise StorageError(f"{self.folder}: {name} is missing")
        return path


def split_of(path: Path) -> str | None:
    """The split whose image file is called as `path` is; None: it is not called so."""
    return next((split for split in PREFIX_OF_SPLIT if path.name in _names(images_name(split))), None)


def _names(name: str) -> tuple[str, ...]:
    """What copies of a file of this name are called."""
    dotted = name.replace("-idx", ".idx")
    return name, f"{name}.gz", dotted, f"{dotted}.gz"


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / each for each in _names(name)) if path.is_file()), None)
