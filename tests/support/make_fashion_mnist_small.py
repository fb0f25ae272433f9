"""Builds the Fashion-MNIST subset that comes with edged: `python tests/support/make_fashion_mnist_small.py [FOLDER]`.

It takes the first images of each class in a seeded shuffle of the full set (which must be installed), and shuffles them
again, so that any run of them holds all classes. The same full set gives the same content.
"""

import gzip
import io
import struct
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edged.adapters.datasets import fashion_mnist, idx

SEED = 20170825  # the day on which the data set was published
PER_CLASS = {"train": 600, "test": 100}


def choose(labels: npt.NDArray[np.uint8], per_class: int) -> npt.NDArray[np.intp]:
    """Indices of `per_class` samples of each class, in a seeded order."""
    random = np.random.default_rng(SEED)
    order = random.permutation(len(labels))
    rank = np.empty(len(labels), np.intp)  # how many of its class precede each sample in that order
    for label in range(len(fashion_mnist.LABELS)):
        of_class = labels[order] == label
        rank[of_class] = np.arange(of_class.sum())
    return random.permutation(order[rank < per_class])


def make(folder: Path) -> None:
    """Write the subset's four IDX files and its labels into `folder`."""
    full = fashion_mnist.full_folder()
    assert full is not None, "the full set is not installed"
    for split, per_class in PER_CLASS.items():
        images = idx.read(full / f"{idx.images_name(split)}.gz", ndim=3)
        labels = idx.read(full / f"{idx.labels_name(split)}.gz", ndim=1)
        chosen = choose(labels, per_class)
        _write(folder / f"{idx.images_name(split)}.gz", images[chosen])
        _write(folder / f"{idx.labels_name(split)}.gz", labels[chosen])
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in fashion_mnist.LABELS), encoding="utf-8")


def _write(path: Path, array: npt.NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    with gzip.GzipFile(path.name.removesuffix(".gz"), "wb", 9, buffer, mtime=0) as file:
        file.write(struct.pack(f">{array.ndim + 1}I", 0x0800 | array.ndim, *array.shape) + array.tobytes())
    path.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else fashion_mnist.SMALL_FOLDER)
