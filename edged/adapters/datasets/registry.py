"""Data sets to replay: opened by a name, or by the path of IDX files, a tree of images, or a CSV file.

Decides what a spec means. See also: `idx`, `image_folder`, `csv_table` (reading each kind).
"""

from pathlib import Path

from edged.adapters.datasets import fashion_mnist, idx
from edged.adapters.datasets.csv_table import open_csv_table
from edged.adapters.datasets.idx import IdxDataset
from edged.adapters.datasets.image_folder import open_image_folder
from edged.domain.text import normal_form
from edged.errors import FormatError, StorageError
from edged.ports import Dataset, Item

__all__ = ["Dataset", "Item", "open_dataset"]

_MAX_LABEL_BYTES = 1 << 20
_DIGITS = tuple("0123456789")


def open_dataset(spec: str | Path) -> Dataset:
    """The data set that `spec` denotes.

    - "fashion-mnist": the full set, from the system's folder or the user's cache; "fashion-mnist-small": the
      subset that comes with edged;
    - a folder with IDX files, named as MNIST's, plain or gzipped; labels from its labels.txt (one a line), else
      Fashion-MNIST's when the folder's name contains "fashion", else the digits; or one of its image files, for that
      split only;
    - a folder with a folder of images per class, below train/ and test/ or directly; or a flat one;
    - a .csv file with a header, a column "label" if there are labels, and numbers in the others.

    Large files are mapped or read when their split is first used. Raises FormatError or StorageError with the reason.
    """
    if spec == "fashion-mnist":
        return _open_idx(_full_fashion_mnist(), name="fashion-mnist")
    if spec == "fashion-mnist-small":
        return _open_idx(fashion_mnist.SMALL_FOLDER)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_idx(path) if idx.splits_in(path) else open_image_folder(path)
    if path.suffix == ".csv" and path.is_file():
        return open_csv_table(path)
    return _open_idx_file(path)


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


def _open_idx_file(path: Path) -> IdxDataset:
    if not path.is_file():
        raise StorageError(f"{path}: no such file or folder, and no data set is called so")
    for split in idx.PREFIX_OF_SPLIT:
        if path.name.removesuffix(".gz") == idx.images_name(split):
            return _open_idx(path.parent, (split,))
    raise FormatError(f"{path}: neither an IDX image file ({idx.images_name('train')}[.gz]) nor a .csv file")


def _labels(folder: Path) -> tuple[str, ...]:
    path = folder / "labels.txt"
    if not path.is_file():
        return fashion_mnist.LABELS if "fashion" in folder.resolve().name.lower() else _DIGITS
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_LABEL_BYTES).decode()
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 text") from error
    labels = tuple(normal_form(line) for line in text.removesuffix("\n").split("\n"))
    if not all(labels) or len(set(labels)) != len(labels):
        raise FormatError(f"{path}: one label a line, none empty, none twice")
    return labels
