"""Data sets to replay: opened by a name, or by the path of IDX files, a tree of images, or a CSV file.

Decides what a spec means. See also: `idx`, `image_folder`, `csv_table` (reading each kind).
"""

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from edged.access import why_refused
from edged.adapters import images
from edged.adapters.datasets import fashion_mnist, idx
from edged.adapters.datasets.csv_table import CsvTable, open_csv_table
from edged.adapters.datasets.idx import IdxDataset
from edged.adapters.datasets.image_folder import open_image_folder
from edged.domain.suggest import did_you_mean
from edged.domain.text import normal_form, shown
from edged.errors import FormatError, StorageError
from edged.files import open_regular
from edged.ports import Dataset, Item

__all__ = ["Dataset", "Item", "open_dataset"]

_FULL, _SMALL = _NAMES = ("fashion-mnist", "fashion-mnist-small")
_HEAD_BYTES = 256
_CONTROLS = frozenset({*range(1, 9), *range(14, 26), *range(27, 32)})
"""Bytes that no text has, in whatever encoding."""
_MAX_LABEL_BYTES = 1 << 20
_DIGITS = tuple("0123456789")


def open_dataset(
    spec: str | Path,
    *,
    header: bool | None = None,
    labels: Sequence[str] = (),
    follow_links: bool = False,
    on_listed: Callable[[int], object] = lambda _: None,
) -> Dataset:
    """The data set that `spec` denotes. What a file is follows from its bytes, not from its name.

    - "fashion-mnist": the full set, from the system's folder or the user's cache; "fashion-mnist-small": the
      subset that comes with edged;
    - a folder with IDX files, named as MNIST's, plain or gzipped; labels from its labels.txt (one a line), else
      Fashion-MNIST's when the folder's name contains "fashion", else the digits; or one of its image files, for that
      split only;
    - a folder with a folder of images per class, below train/, val/ and test/ or directly; or a flat one; links in it
      are left out unless `follow_links`, and `on_listed` gets numbers of files as they are listed;
    - a CSV file, of numbers and a column "label" if there are labels; `header`: whether its first line names them;
      None: what its lines tell, and the stream's `labels`.

    Large files are mapped or read when their split is first used. Raises FormatError or StorageError with the reason.
    """
    if spec == _FULL:
        return _open_idx(_full_fashion_mnist(), name=_FULL)
    if spec == _SMALL:
        return _open_idx(fashion_mnist.SMALL_FOLDER)
    path = Path(os.path.expanduser(spec))  # noqa: PTH111 - a user that does not exist is no reason to fail
    if _is_folder(path):
        return (
            _open_idx(path)
            if idx.splits_in(path)
            else open_image_folder(path, follow_links=follow_links, on_listed=on_listed)
        )
    split = idx.split_of(path)
    return _open_table(path, header, labels) if split is None else _open_idx(path.parent, (split,))


def _is_folder(path: Path) -> bool:
    """Whether it is a folder rather than a file. Raises StorageError when it is neither."""
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            open_regular(path).close()
            return False
    except FileNotFoundError as error:
        alike = _alike(path)
        meant = did_you_mean(str(path), _NAMES)
        unknown = ", and no data set is called so" + (f" ({meant})" if meant else "")
        other = f"; there is {alike}" if alike else unknown
        raise StorageError(f"{path}: no such file or folder{other}") from error
    except OSError as error:
        raise StorageError(f"{path}: {why_refused(path, error, reads=True)}") from error
    return True


def _alike(path: Path) -> str:
    """What lies in the place of `path` and looks the same, shown so that it can be told apart; empty: nothing."""
    try:
        names = [each.name for each in path.parent.iterdir()]
    except OSError:
        return ""
    return next((shown(each, beside=[path.name]) for each in names if normal_form(each) == normal_form(path.name)), "")


def _full_fashion_mnist() -> Path:
    folder = fashion_mnist.full_folder()
    if folder is None:
        raise StorageError(
            "Fashion-MNIST is not on this machine: install Debian's package dataset-fashion-mnist, fetch it with "
            "--download, or use fashion-mnist-small, which comes with edged"
        )
    return folder


def _open_idx(folder: Path, splits: tuple[str, ...] = (), name: str = "") -> IdxDataset:
    return IdxDataset(folder, name or folder.resolve().name, _labels(folder), splits or idx.splits_in(folder))


def _open_table(path: Path, header: bool | None, labels: Sequence[str]) -> CsvTable:  # noqa: FBT001 - an option
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    if images.format_of(head) is not None:
        raise FormatError(f"{path}: a single image; name its folder")
    if _CONTROLS & set(head):
        raise FormatError(f"{path}: neither an IDX image file ({idx.images_name('train')}[.gz]) nor a CSV file")
    return open_csv_table(path, header=header, labels=labels)


def _labels(folder: Path) -> tuple[str, ...]:
    path = folder / "labels.txt"
    if not path.is_file():
        return fashion_mnist.LABELS if "fashion" in folder.resolve().name.lower() else _DIGITS
    try:
        with open_regular(path) as file:
            text = file.read(_MAX_LABEL_BYTES).decode()
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 text") from error
    labels = tuple(normal_form(line) for line in text.removesuffix("\n").split("\n"))
    if not all(labels) or len(set(labels)) != len(labels):
        raise FormatError(f"{path}: one label a line, none empty, none twice")
    return labels
