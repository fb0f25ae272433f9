"""Checkpoints and deployed models as files in one folder: the port CheckpointStore on a disk.

    checkpoint-000000004690.safetensors     weights, optimizer state, positions
    checkpoint-….safetensors.damaged-1      one that could not be used, kept aside; the numbers rise
    epoch-000000000010.safetensors          the sampler state that the epoch's plan starts from
    model-000000004690.tflite               the model for inference, and, written after it:
    model-000000004690.json                 its digest, labels, shape and so on; when it exists, both are complete
    model.tflite                            the newest of them, under a name for people

Covers durable, atomic writing, and skipping incomplete files. Of their content it knows only the model's digest. One
process writes a folder; others may read it meanwhile. See also: `domain.training.checkpoint` (the content).
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edged.access import require_writable, why_dead, why_refused
from edged.domain import format_version
from edged.errors import DiskFull, FormatError, StateFolderRefused, StorageError
from edged.files import read_regular, sync_folder
from edged.log import ThrottledLog, logger
from edged.ports import DeployedModel

KEPT = 3
"""Checkpoints, and models. On a full disk the oldest make room for a new one: they are its reserve."""

MAX_BYTES = 1 << 30
"""Of a file, where nothing else is said. A node's memory limit bounds what it has written: it held that in memory."""

_CHECKPOINT = re.compile(r"checkpoint-(\d{12})\.safetensors")
_ASIDE = re.compile(r"checkpoint-\d{12}\.safetensors\.damaged-(\d{1,9})")
_SAMPLER_STATE = re.compile(r"epoch-(\d{12})\.safetensors")
_DESCRIPTION = re.compile(r"model-(\d{12})\.json")
_MODEL_VERSION = "model/1"
"""Of a model's description; one without a version is of this one."""

_TEMPORARY = ".tmp"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_ERRORS_THAT_PASS = {errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, *_FULL}
"""They say nothing about the folder: of the disk, or of a process or a machine that can open no more."""

_FOLDER_MODE = 0o750
_FILE_MODE = 0o640
_MAX_DESCRIPTION_BYTES = 1 << 20


class CheckpointDir:
    """A `ports.CheckpointStore` in `folder`, which is created if missing.

    `writes`: this process trains; incomplete files of a crashed one are deleted. `max_bytes`: of a file; a larger one
    is not read. Raises StateFolderRefused when the folder cannot be created or written; of a reader, when it cannot be
    listed or is a link to nowhere. A disk that is read-only, full or broken may be mended while the process runs, so it
    is not refused: `problem` says so.
    """

    problem = ""
    """Why nothing could be written here at the start."""

    def __init__(self, folder: Path, *, writes: bool = True, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lines = ThrottledLog()
        if writes:
            try:
                self._create_folder()
                self._claim_folder()
                self._remove_leftovers()
            except OSError as error:
                problem = f"the state folder {folder} cannot be used: {why_refused(folder, error)}"
                if error.errno not in _ERRORS_THAT_PASS:
                    raise StateFolderRefused(problem) from error
                self.problem = problem
        elif reason := why_dead(folder):
            raise StateFolderRefused(f"the state folder {folder} cannot be read: {reason}")
        else:
            self._generations(_DESCRIPTION)

    @property
    def location(self) -> str:
        return str(self._folder)

    def _create_folder(self) -> None:
        """Create the folder, durably in the folders above it, whoever has made those."""
        self._folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        for above in self._folder.parents:
            try:
                sync_folder(above)
            except OSError:  # not ours, and not one that we have made
                return

    def _claim_folder(self) -> None:
        """Close it to others. One that belongs to another user will do if it can be written."""
        try:
            self._folder.chmod(_FOLDER_MODE)
        except PermissionError:
            require_writable(self._folder)

    def _remove_leftovers(self) -> None:
        """Delete what a crash left: temporary files, and models without a description."""
        for left_over in self._folder.glob(f"*{_TEMPORARY}"):
            if not left_over.is_dir():
                left_over.unlink()
        for model in self._folder.glob("model-*.tflite"):
            if not model.with_suffix(".json").exists() and not model.is_dir():
                model.unlink()

    def save(self, checkpoint: bytes, generation: int) -> None:
        """See the port. Checkpoints of a higher generation belong to an abandoned history and are deleted."""
        older = sorted(each for each in self._generations(_CHECKPOINT) if each != generation)
        with _storage_errors():
            self._write_with_room(
                f"checkpoint-{generation:012}.safetensors",
                checkpoint,
                [(f"checkpoint-{each:012}.safetensors",) for each in older],
            )
            for old in _outdated(self._generations(_CHECKPOINT), generation):
                self._remove(f"checkpoint-{old:012}.safetensors")

    def save_sampler_state(self, state: bytes, epoch: int) -> None:
        with _storage_errors():
            self._write(f"epoch-{epoch:012}.safetensors", state)
            for old in _outdated(self._generations(_SAMPLER_STATE), epoch):
                self._remove(f"epoch-{old:012}.safetensors")

    def sampler_state(self, epoch: int) -> bytes | None:
        try:
            return read_regular(self._folder / f"epoch-{epoch:012}.safetensors", self._max_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger().warning("epoch.memo_skipped", epoch=epoch, err=str(error))
            return None

    def deploy(self, model: DeployedModel) -> None:
        """See the port: 1. the model, 2. its description, 3. `model.tflite`, 4. delete old ones."""
        name = f"model-{model.generation:012}"
        description = {
            "edged": _MODEL_VERSION,
            "generation": model.generation,
            "sha256": hashlib.sha256(model.content).hexdigest(),
            "labels": model.labels,
            "sample_shape": model.sample_shape,
            "anomaly_threshold": model.anomaly_threshold,
        }
        with _storage_errors():
            self._remove(f"{name}.json")  # an existing one would not match while the model is replaced
            older = [_model_files(each) for each in sorted(self._generations(_DESCRIPTION))]
            self._write_with_room(f"{name}.tflite", model.content, older)
            self._write(f"{name}.json", json.dumps(description).encode())
            self._link(f"{name}.tflite", "model.tflite")
            for old in _outdated(self._generations(_DESCRIPTION), model.generation):
                for file in _model_files(old):
                    self._remove(file)

    def checkpoints(self) -> Iterator[tuple[int, bytes | StorageError]]:
        for generation in sorted(self._generations(_CHECKPOINT), reverse=True):
            file = self._folder / f"checkpoint-{generation:012}.safetensors"
            try:
                content = read_regular(file, self._max_bytes)
            except FileNotFoundError as error:
                if file.is_symlink():  # to where nothing is, perhaps not now
                    yield generation, StorageError(str(error))
            except PermissionError as error:
                raise StateFolderRefused(f"{file} may not be read: {why_refused(file, error)}") from error
            except OSError as error:
                yield generation, StorageError(str(error))
            else:
                yield generation, content

    def set_aside(self, generation: int) -> str:
        name = f"checkpoint-{generation:012}.safetensors"
        with _storage_errors():
            aside = {
                int(match[1]): each.name for each in self._folder.iterdir() if (match := _ASIDE.fullmatch(each.name))
            }
            number = max(aside, default=0) + 1
            aside[number] = f"{name}.damaged-{number}"
            (self._folder / name).rename(self._folder / aside[number])
            sync_folder(self._folder)
            for old in sorted(aside)[:-KEPT]:
                self._remove(aside[old])
        return aside[number]

    def newest_model(self, newer_than: int = -1, older_than: int | None = None) -> DeployedModel | None:
        for generation in sorted(self._generations(_DESCRIPTION), reverse=True):
            if older_than is not None and generation >= older_than:
                continue
            if generation <= newer_than:
                return None
            try:
                return self._model(generation)
            except FileNotFoundError:
                continue  # the trainer has just deleted it
            except (OSError, FormatError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
                self._lines.warning("checkpoint.model_skipped", generation, generation=generation, err=str(error))
        return None

    def _model(self, generation: int) -> DeployedModel:
        name = self._folder / f"model-{generation:012}"
        description: dict[str, Any] = json.loads(read_regular(name.with_suffix(".json"), _MAX_DESCRIPTION_BYTES))
        format_version.check(description.get("edged", _MODEL_VERSION), _MODEL_VERSION)
        content = read_regular(name.with_suffix(".tflite"), self._max_bytes)
        if hashlib.sha256(content).hexdigest() != description["sha256"] or description["generation"] != generation:
            raise ValueError("the model does not match its description")
        labels, shape = tuple(description["labels"]), tuple(description["sample_shape"])
        if not all(isinstance(label, str) for label in labels) or not all(type(n) is int and n > 0 for n in shape):
            raise ValueError("labels or shape are malformed")
        threshold = description["anomaly_threshold"]
        if threshold is not None and not (type(threshold) is float and 0 <= threshold < math.inf):
            raise ValueError("the anomaly threshold is malformed")
        return DeployedModel(generation, content, labels, shape, threshold)

    def _generations(self, pattern: re.Pattern[str]) -> list[int]:
        """Also of what is no file, such as a named pipe or a link to nowhere; a folder of that name is not ours.

        Raises StateFolderRefused when the folder may not be listed or is none, else StorageError.
        """
        try:
            names = [path.name for path in self._folder.iterdir() if not path.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            kind = StorageError if error.errno in _ERRORS_THAT_PASS else StateFolderRefused
            reason = why_refused(self._folder, error)
            raise kind(f"the state folder {self._folder} cannot be read: {reason}") from error
        return [int(match[1]) for name in names if (match := pattern.fullmatch(name))]

    def _write_with_room(self, name: str, content: bytes, older: Sequence[tuple[str, ...]]) -> None:
        """`_write`; of `older`, each some files, the oldest make room on a full disk. The newest of them stays."""
        for spare in older[:-1]:
            try:
                self._write(name, content)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._lines.warning("checkpoint.made_room", "", file=spare[-1], err=str(error))
                for file in spare:
                    self._remove(file)
            else:
                return
        self._write(name, content)

    def _write(self, name: str, content: bytes) -> None:
        """1. Write a temporary file, 2. fsync, 3. rename, 4. fsync the folder. A failure deletes the temporary file."""
        if not self._folder.is_dir():  # it has been deleted
            self._create_folder()
        temporary = self._folder / (name + _TEMPORARY)
        temporary.unlink(missing_ok=True)
        try:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _FILE_MODE)
            with os.fdopen(file, "wb") as stream:
                os.fchmod(stream.fileno(), _FILE_MODE)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self._folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(self._folder)

    def _link(self, target: str, name: str) -> None:
        """Make `name` another name of `target`, atomically."""
        temporary = self._folder / (name + _TEMPORARY)
        temporary.unlink(missing_ok=True)
        try:
            os.link(self._folder / target, temporary)
        except OSError:  # FAT and some network file systems have no hard links
            shutil.copyfile(self._folder / target, temporary)
        temporary.replace(self._folder / name)
        sync_folder(self._folder)

    def _remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)


def _model_files(generation: int) -> tuple[str, str]:
    """In the order to delete them in: no description may be without its model."""
    return f"model-{generation:012}.json", f"model-{generation:012}.tflite"


def _outdated(generations: list[int], newest: int) -> list[int]:
    """All but the KEPT newest up to `newest`."""
    kept = sorted(generation for generation in generations if generation <= newest)[-KEPT:]
    return [generation for generation in generations if generation not in kept]


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = DiskFull if error.errno in _FULL else StorageError
        raise kind(str(error)) from error
