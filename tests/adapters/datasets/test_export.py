"""Class folders and tar files that other programs read."""

import io
import tarfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from edged.adapters.datasets.export import NO_FOLDER_NAME, UNLABELLED, ClassFolders, TarShards, new_folder
from edged.domain.archive.export import Exported
from edged.domain.topology import Stream
from edged.errors import StorageError

IMAGES = Stream("images", (2, 3, 1), "uint8", ("boot", "bag"))
FLOATS = Stream("meter", (2,), "float32", ("low",))
JPEG = b"\xff\xd8\xffjpeg"


def one(label: str | None = "bag", codec: str = "raw", payload: bytes = bytes(range(6)), name: str = "a") -> Exported:
    return Exported("train", name, label, codec, payload)


def test_raw_images_become_png_and_others_stay_as_they_are(tmp_path):
    writer = ClassFolders(tmp_path, IMAGES)

    assert [writer.add(one()), writer.add(one(name="b", codec="jpeg", payload=JPEG))] == ["", ""]

    with Image.open(tmp_path / "train/bag/a.png") as image:
        assert np.asarray(image).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (tmp_path / "train/bag/b.jpg").read_bytes() == JPEG


def test_what_is_no_image_becomes_an_array(tmp_path):
    payload = np.array([1.5, -2], "<f4").tobytes()

    ClassFolders(tmp_path, FLOATS).add(one("low", payload=payload))

    assert np.load(tmp_path / "train/low/a.npy").tolist() == [1.5, -2]


@pytest.mark.parametrize("label", ["../../escaped", "/etc", "..", ".hidden", "a\nb"])
def test_a_label_that_is_no_name_makes_no_path(tmp_path, label):
    inside = tmp_path / "inside"
    inside.mkdir()

    assert ClassFolders(inside, IMAGES).add(one(label)) == NO_FOLDER_NAME

    assert [path.name for path in tmp_path.rglob("*")] == ["inside"]


def test_class_folders_have_no_place_for_what_has_no_label(tmp_path):
    assert ClassFolders(tmp_path, IMAGES).add(one(None)) == UNLABELLED


def test_a_tar_file_has_the_files_of_each_sample_together(tmp_path):
    writer = TarShards(tmp_path, IMAGES)
    for each in (one("../x"), one("bag", "jpeg", JPEG, "b"), one(None, name="c")):
        assert writer.add(each) == ""
    writer.close()

    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        content = {each.name: (tar.extractfile(each) or io.BytesIO()).read() for each in tar}
    assert [*content] == ["a.png", "a.txt", "b.jpg", "b.cls", "b.txt", "c.png"]
    assert (content["a.txt"], content["b.cls"], content["b.txt"]) == (b"../x", b"1", b"bag")


def test_a_full_tar_file_is_followed_by_the_next_with_whole_samples(tmp_path):
    writer = TarShards(tmp_path, IMAGES, shard_bytes=5_000)
    for number in range(10):
        writer.add(one(name=f"n{number}"))
    writer.close()

    names = []
    for path in sorted(tmp_path.glob("train-*.tar")):
        with tarfile.open(path) as tar:
            names.append([each.name.split(".")[0] for each in tar])
    assert len(names) > 2
    assert all(of_one.count(name) == 3 for of_one in names for name in of_one), "picture, class and label together"
    assert sorted({name for of_one in names for name in of_one}) == sorted(f"n{n}" for n in range(10))


def test_memory_does_not_grow_with_the_samples_of_a_tar_file(tmp_path):
    writer = TarShards(tmp_path, IMAGES)
    payload = JPEG
    for number in range(200):
        writer.add(one("bag", "jpeg", payload, f"n{number}"))
    tracemalloc.start()
    for number in range(2_000):
        writer.add(one("bag", "jpeg", payload, f"m{number}"))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    writer.close()

    assert held < 100_000


def test_a_folder_that_is_there_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()

    with pytest.raises(StorageError, match="is there already"), new_folder(tmp_path / "out"):
        pass

    assert [*tmp_path.iterdir()] == [tmp_path / "out"]


def test_an_export_that_failed_leaves_nothing_under_the_folders_name_and_is_told_of(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out"):
        raise RuntimeError

    assert not (tmp_path / "out").exists()
    with pytest.raises(StorageError, match=r"out\.partial is there.*delete it"), new_folder(tmp_path / "out"):
        pass


def test_a_full_disk_is_told_with_the_place(tmp_path):
    with pytest.raises(StorageError, match=r"No space left.*out\.partial is incomplete"), new_folder(tmp_path / "out"):
        raise OSError(28, "No space left on device", str(tmp_path / "out.partial/x"))
