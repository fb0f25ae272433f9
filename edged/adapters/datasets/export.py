"""Writes samples as other programs read them: a folder for each class, or tar files of the WebDataset form.

    <folder>/<split>/<label>/<name>.<suffix>    what PyTorch's ImageFolder and edged's own import read
    <folder>/<split>-<number, 6 digits>.tar     <name>.<suffix>, and of labelled samples <name>.cls and <name>.txt

Images stay as they are; raw images of 1 or 3 channels become PNG, all other raw samples NumPy's .npy. A .cls is the
label's number in the topology's list, where it is in that; a .txt the label itself.
"""

import contextlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from edged.adapters.images import encode
from edged.domain.archive.export import Exported, is_folder_name
from edged.domain.samples import codec as codec_rules
from edged.domain.topology import Stream
from edged.errors import StorageError

SHARD_BYTES = 256 << 20
"""Of a tar file, about."""

UNLABELLED, NO_FOLDER_NAME = "unlabelled", "label is no name of a folder"

_SUFFIXES = {"jpeg": "jpg", "png": "png"}


class Writer(Protocol):
    """Takes samples, one after the other."""

    def add(self, sample: Exported) -> str:
        """Write the sample, or say why it is left out: the reason, "" when it was written."""

    def close(self) -> None:
        """No more come."""


class ClassFolders:
    """A `Writer` of folders."""

    def __init__(self, folder: Path, stream: Stream) -> None:
        self._folder = folder
        self._stream = stream
        self._made: set[Path] = set()

    def add(self, sample: Exported) -> str:
        if sample.label is None:
            return UNLABELLED
        if not is_folder_name(sample.label):
            return NO_FOLDER_NAME
        folder = self._folder / sample.split / sample.label
        if folder not in self._made:
            folder.mkdir(parents=True, exist_ok=True)
            self._made.add(folder)
        suffix, content = _encoded(sample, self._stream)
        with (folder / f"{sample.name}.{suffix}").open("xb") as file:
            file.write(content)
        return ""

    def close(self) -> None:
        pass


class TarShards:
    """A `Writer` of tar files, the next one when one is full. The same samples give the same bytes."""

    def __init__(self, folder: Path, stream: Stream, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder = folder
        self._stream = stream
        self._shard_bytes = shard_bytes
        self._numbers = codec_rules.class_index(stream)
        self._open: dict[str, tarfile.TarFile] = {}
        self._shards: dict[str, int] = {}

    def add(self, sample: Exported) -> str:
        tar = self._shard(sample.split)
        suffix, content = _encoded(sample, self._stream)
        _put(tar, f"{sample.name}.{suffix}", content)
        if sample.label is not None:
            if (number := codec_rules.class_number(self._numbers, sample.label)) >= 0:
                _put(tar, f"{sample.name}.cls", str(number).encode())
            _put(tar, f"{sample.name}.txt", sample.label.encode())
        return ""

    def close(self) -> None:
        for tar in self._open.values():
            tar.close()

    def _shard(self, split: str) -> tarfile.TarFile:
        """The split's tar file that is not full."""
        if split in self._open and self._open[split].offset >= self._shard_bytes:
            self._open.pop(split).close()
        if split not in self._open:
            number = self._shards[split] = self._shards.get(split, -1) + 1
            self._open[split] = tarfile.open(self._folder / f"{split}-{number:06d}.tar", "x")  # noqa: SIM115 - closed by close()
        return self._open[split]


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which is `folder` once that is done. Raises StorageError, also where something is there."""
    partial = folder.with_name(f"{folder.name}.partial")
    if os.path.lexists(folder):
        raise StorageError(f"{folder} is there already: name another folder, or delete it")
    if os.path.lexists(partial):
        raise StorageError(f"{partial} is there, of an export that goes on or was interrupted: delete it")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    except OSError as error:
        raise StorageError(
            f"{error.filename or partial}: {error.strerror or error}; {partial} is incomplete"
        ) from error


def _encoded(sample: Exported, stream: Stream) -> tuple[str, bytes]:
    """The suffix and the content of the sample's file."""
    if sample.codec != "raw":
        return _SUFFIXES[sample.codec], sample.payload
    array = codec_rules.decode_raw(sample.payload, stream)
    if stream.dtype == "uint8" and len(stream.shape) == 3 and stream.shape[2] in {1, 3}:
        return "png", encode(array, "png")
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return "npy", file.getvalue()


def _put(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
    tar.members.clear()  # type: ignore[attr-defined]  # it would grow with each file
