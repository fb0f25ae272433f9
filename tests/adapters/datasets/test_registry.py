"""Specs of data sets, and the samples of each kind."""

import gzip
import os
import struct

import numpy as np
import numpy.typing as npt
import pytest

from edged.adapters.datasets import fashion_mnist, idx
from edged.adapters.datasets.idx import IdxDataset
from edged.adapters.datasets.registry import open_dataset
from edged.adapters.images import encode
from edged.errors import FormatError, StorageError
from tests.support.make_fashion_mnist_small import PER_CLASS, make
from tests.support.requirements import require

PIXELS = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3)


def idx_bytes(array, magic=None, shape=None):
    shape = array.shape if shape is None else shape
    magic = 0x0800 | len(shape) if magic is None else magic
    return struct.pack(f">{len(shape) + 1}I", magic, *shape) + array.tobytes()


def write_idx(folder, *, images=None, labels=None, prefix="train", packed=False):
    folder.mkdir(exist_ok=True)
    images = idx_bytes(PIXELS) if images is None else images
    labels = idx_bytes(np.array([0, 1, 9, 3], np.uint8)) if labels is None else labels
    for name, content in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def full_fashion_mnist():
    if fashion_mnist.full_folder() is None:
        require("the full Fashion-MNIST is not installed (Debian: dataset-fashion-mnist)")
    return open_dataset("fashion-mnist")


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_have_raw_samples_by_index(tmp_path, packed):
    dataset = open_dataset(write_idx(tmp_path / "mnist", packed=packed))
    assert (dataset.name, dataset.splits, dataset.shape, dataset.dtype) == ("mnist", ("train",), (2, 3, 1), "uint8")
    assert dataset.count("train") == 4
    item = dataset.sample("train", 2)
    assert (item.label, item.codec, item.payload) == ("9", "raw", PIXELS[2].tobytes())


def test_a_folder_with_fashion_in_its_name_has_the_labels_of_fashion_mnist(tmp_path):
    dataset = open_dataset(write_idx(tmp_path / "my-fashion"))
    assert dataset.labels == fashion_mnist.LABELS
    assert dataset.sample("train", 2).label == "boot"


def test_a_labels_file_names_the_labels(tmp_path):
    folder = write_idx(tmp_path / "letters", labels=idx_bytes(np.array([0, 1, 1, 0], np.uint8)))
    (folder / "labels.txt").write_text("α\nβ\n")
    assert [open_dataset(folder).sample("train", i).label for i in range(4)] == ["α", "β", "β", "α"]


@pytest.mark.parametrize("text", ["a\n\nb\n", "a\na\n", ""])
def test_a_labels_file_with_empty_or_repeated_labels_is_refused(tmp_path, text):
    folder = write_idx(tmp_path / "letters")
    (folder / "labels.txt").write_text(text)
    with pytest.raises(FormatError, match="one label a line"):
        open_dataset(folder)


def test_an_image_file_denotes_its_split_only(tmp_path):
    folder = write_idx(tmp_path / "mnist")
    write_idx(folder, prefix="t10k")
    assert open_dataset(folder).splits == ("train", "test")
    assert open_dataset(folder / "t10k-images-idx3-ubyte").splits == ("test",)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("images", "labels", "why"),
    [
        (idx_bytes(PIXELS, magic=0x0D03), None, "magic"),
        (idx_bytes(PIXELS, magic=0x0801), None, "magic"),
        (None, idx_bytes(PIXELS), "magic"),
        (idx_bytes(PIXELS)[:-1], None, "bytes"),
        (idx_bytes(PIXELS) + b"\0", None, "bytes"),
        (idx_bytes(PIXELS)[:11], None, "header"),
        (b"", None, "header"),
        (idx_bytes(PIXELS, shape=(2**32 - 1,) * 3), None, "claims"),
        (idx_bytes(PIXELS[:0], shape=(4, 0, 3)), None, "no size"),
        (None, idx_bytes(np.zeros(3, np.uint8)), "4 images but 3 labels"),
        (None, idx_bytes(np.full(4, 10, np.uint8)), "label 10"),
    ],
)
def test_inconsistent_idx_files_are_refused(tmp_path, images, labels, why, packed):
    dataset = open_dataset(write_idx(tmp_path / "mnist", images=images, labels=labels, packed=packed))
    with pytest.raises(FormatError, match=why):
        dataset.sample("train", 0)


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-9], lambda c: c[:5], lambda c: b"x" + c, lambda c: c[:30] + b"\xff\xff" + c[32:]]
)
def test_damaged_gzip_is_refused(tmp_path, damage):
    folder = write_idx(tmp_path / "mnist", packed=True)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FormatError, match="gzip"):
        open_dataset(folder).count("train")


def test_gzip_data_beyond_the_header_is_not_kept(tmp_path):
    bomb = gzip.compress(idx_bytes(PIXELS) + bytes(64 << 20))
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(bomb)
    with pytest.raises(FormatError, match="more bytes"):
        idx.read(path, ndim=3)


def test_gzip_data_larger_than_memory_may_hold_is_refused_by_its_header(tmp_path):
    """Three gigabytes of zeros are three megabytes packed."""
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(PIXELS, shape=(3 << 10, 1 << 10, 1 << 10)) + bytes(1 << 20)))
    with pytest.raises(FormatError, match="claims 3221225472 bytes; at most 1073741824 are unpacked into memory"):
        idx.read(path, ndim=3)


def test_plain_files_are_mapped_and_not_read_into_memory(tmp_path):
    folder = write_idx(tmp_path / "mnist")
    assert isinstance(idx.read(folder / "train-images-idx3-ubyte", ndim=3), np.memmap)


def test_an_unknown_index_or_split_is_an_error(tmp_path):
    dataset = open_dataset(write_idx(tmp_path / "mnist"))
    for index in (-1, 4):
        with pytest.raises(IndexError):
            dataset.sample("train", index)
    with pytest.raises(KeyError):
        dataset.count("test")


def test_the_error_names_a_missing_label_file(tmp_path):
    folder = write_idx(tmp_path / "mnist")
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(StorageError, match="train-labels-idx1-ubyte is missing"):
        open_dataset(folder).count("train")


@pytest.mark.parametrize("name", ["train-images.idx3-ubyte", "train-images-idx3-ubyte.gz", "train-images-idx3-ubyte"])
@pytest.mark.parametrize("packed", [False, True])
def test_whether_an_idx_file_is_packed_is_told_by_its_bytes(tmp_path, name, packed):
    images, labels = idx_bytes(PIXELS), idx_bytes(np.array([0, 1, 9, 3], np.uint8))
    (tmp_path / name).write_bytes(gzip.compress(images) if packed else images)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(labels if packed else gzip.compress(labels))
    for spec in (tmp_path, tmp_path / name):
        assert open_dataset(spec).sample("train", 2).payload == PIXELS[2].tobytes()


@pytest.mark.parametrize("spec", ["no-such-data-set", "/no/such/folder"])
def test_an_unknown_spec_is_reported(spec):
    with pytest.raises(StorageError, match="no such file or folder"):
        open_dataset(spec)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"TFL3\x1c\0\0\0\x01")
    with pytest.raises(FormatError, match="neither"):
        open_dataset(tmp_path / "model.bin")
    (tmp_path / "photo.csv").write_bytes(encode(PIXELS[0][:, :, np.newaxis], "png"))
    with pytest.raises(FormatError, match="a single image; name its folder"):
        open_dataset(tmp_path / "photo.csv")


def test_a_fifo_is_no_data_set_and_nobody_waits_at_it(tmp_path):
    os.mkfifo(tmp_path / "readings.csv")
    with pytest.raises(StorageError, match=r"readings\.csv: it is no regular file but a FIFO"):
        open_dataset(tmp_path / "readings.csv")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a" * 300, "File name too long"),
        ("good.csv/x", r"good\.csv is no folder$"),
        ("loop", "is a link to|Too many levels"),
    ],
    ids=["long", "below a file", "loop"],
)
def test_what_cannot_be_opened_says_why(tmp_path, name, why):
    (tmp_path / "good.csv").write_text("a\n1\n")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StorageError, match=why):
        open_dataset(tmp_path / name)


def test_a_folder_whose_name_is_written_otherwise_is_named(tmp_path):
    (tmp_path / "Mo\u0308hren").mkdir()
    with pytest.raises(StorageError, match=r"no such file or folder; there is Mo\\u0308hren$"):
        open_dataset(tmp_path / "M\u00f6hren")


def test_the_full_set_has_all_of_fashion_mnist():
    dataset = full_fashion_mnist()
    assert {split: dataset.count(split) for split in dataset.splits} == {"train": 60_000, "test": 10_000}
    assert (dataset.shape, dataset.labels, dataset.sample("train", 0).label) == (
        (28, 28, 1),
        fashion_mnist.LABELS,
        "boot",
    )


def small_set(split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images [n, 28, 28] and class indices [n] of the packaged files."""
    folder = fashion_mnist.SMALL_FOLDER
    return (
        idx.read(folder / f"{idx.images_name(split)}.gz", ndim=3),
        idx.read(folder / f"{idx.labels_name(split)}.gz", ndim=1),
    )


def test_the_small_set_comes_with_the_package_and_is_balanced():
    dataset = open_dataset("fashion-mnist-small")
    assert isinstance(dataset, IdxDataset)
    for split, per_class in PER_CLASS.items():
        images, labels = small_set(split)
        assert images.shape == (10 * per_class, 28, 28)
        assert np.bincount(labels, minlength=10).tolist() == [per_class] * 10
    assert dataset.labels == fashion_mnist.LABELS
    assert sum(path.stat().st_size for path in fashion_mnist.SMALL_FOLDER.iterdir()) < 4_000_000
    assert "MIT License" in (fashion_mnist.SMALL_FOLDER / "LICENSE").read_text()


def test_any_run_of_the_small_set_holds_all_classes():
    _, labels = small_set("train")
    assert all(len(set(labels[i : i + 200].tolist())) == 10 for i in range(0, 6000, 200))


def test_the_small_set_is_what_its_script_builds_from_the_full_one(tmp_path):
    full_fashion_mnist()
    make(tmp_path)
    names = [*fashion_mnist.CONTENT_OF_FILE, "labels.txt"]
    assert len(names) == 5
    for name in names:
        built, packaged = (tmp_path / name).read_bytes(), (fashion_mnist.SMALL_FOLDER / name).read_bytes()
        if name.endswith(".gz"):  # another zlib may pack the same content otherwise
            built, packaged = gzip.decompress(built), gzip.decompress(packaged)
        assert built == packaged


def test_the_images_of_the_small_set_are_those_of_the_full_one():
    full, small = full_fashion_mnist(), open_dataset("fashion-mnist-small")
    for split in small.splits:
        known = {(item.label, item.payload) for item in (full.sample(split, i) for i in range(full.count(split)))}
        assert all((s.label, s.payload) in known for s in (small.sample(split, i) for i in range(small.count(split))))


def test_a_home_that_nobody_has_is_no_reason_to_fail():
    with pytest.raises(StorageError, match=r"^~nobody-has-it/images: no such file or folder"):
        open_dataset("~nobody-has-it/images")
