"""Folders of images as people have them: what is taken, what is left out and why, and that no file is forgotten."""

import os
import socket
from collections.abc import Callable

import numpy as np
import pytest

from edged.adapters.datasets.image_folder import ImageFolder, open_image_folder
from edged.adapters.images import encode
from edged.errors import FormatError, StorageError

PIXELS = np.zeros((2, 2, 1), np.uint8)
PNG, JPEG = encode(PIXELS, "png"), encode(PIXELS, "jpeg")


def folder_of(folder, *names, **contents):
    """The files `names` below `folder`, PNGs all; others by their contents."""
    for name, content in [*((name, PNG) for name in names), *contents.items()]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def taken(dataset: ImageFolder) -> dict[str, list[str]]:
    """The names of each split, label first."""
    return {
        split: [f"{label or ''}: {dataset.item_name(split, i)}" for i, (label, *_) in enumerate(dataset.files[split])]
        for split in dataset.splits
    }


def left_out(dataset: ImageFolder) -> dict[str, tuple[int, list[str]]]:
    return {each.reason: (each.count, list(each.first)) for each in dataset.left_out}


def num_accounted_for(dataset: ImageFolder) -> int:
    return sum(map(dataset.count, dataset.splits)) + sum(each.count for each in dataset.left_out)


def num_files(folder) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


# layouts


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["b/1.png", "a/2.png", "a/10.png"], {"all": ["a: a/10.png", "a: a/2.png", "b: b/1.png"]}),
        (["2.png", "1"], {"all": [": 1", ": 2.png"]}),
        (
            ["a/2024-05/1.png", "a/x/y/z.png", "a/0.png"],
            {"all": ["a: a/0.png", "a: a/2024-05/1.png", "a: a/x/y/z.png"]},
        ),
        (
            ["test/a/1.png", "train/a/1.png", "train/b/1.png"],
            {"train": ["a: train/a/1.png", "b: train/b/1.png"], "test": ["a: test/a/1.png"]},
        ),
        (["train/a/1.png", "val/a/1.png"], {"train": ["a: train/a/1.png"], "val": ["a: val/a/1.png"]}),
        (["Training/a/1.png", "Testing/a/1.png"], {"train": ["a: Training/a/1.png"], "test": ["a: Testing/a/1.png"]}),
        (
            ["train/a/1.png", "valid/a/1.png", "validation/a/2.png", "test/a/3.png"],
            {
                "train": ["a: train/a/1.png"],
                "test": ["a: test/a/3.png"],
                "val": ["a: valid/a/1.png", "a: validation/a/2.png"],
            },
        ),
        (["train/1.png", "test/2.png"], {"train": [": train/1.png"], "test": [": test/2.png"]}),
        (["a/1.png", "test/a/2.png"], {"train": ["a: a/1.png"], "test": ["a: test/a/2.png"]}),
        (
            ["mu\u0308ll/1.png", "m\u00fcll/2.png"],
            {"all": ["m\u00fcll: mu\u0308ll/1.png", "m\u00fcll: m\u00fcll/2.png"]},
        ),
    ],
    ids=[
        "ImageFolder", "flat", "dated", "splits", "val", "Kaggle", "Roboflow", "flat-splits", "classes-and-test",
        "Unicode",
    ],
)  # fmt: skip
def test_layouts(tmp_path, names, wanted):
    dataset = open_image_folder(folder_of(tmp_path, *names))
    assert taken(dataset) == wanted
    assert dataset.left_out == ()


def test_imagenet_and_kaggle_have_splits_without_labels_which_are_none(tmp_path):
    folder_of(tmp_path, "train/n01/1.JPEG", "val/ILSVRC_1.JPEG", "val/ILSVRC_2.JPEG", "test/unknown/1.jpg")
    dataset = open_image_folder(tmp_path)
    assert taken(dataset) == {"train": ["n01: train/n01/1.JPEG"]}
    assert left_out(dataset) == {
        "unlabelled_split": (3, ["test/unknown/1.jpg", "val/ILSVRC_1.JPEG", "val/ILSVRC_2.JPEG"])
    }


def test_images_beside_the_classes_and_beside_the_splits_are_left_out(tmp_path):
    dataset = open_image_folder(folder_of(tmp_path, "train/a/1.png", "train/2.png", "chest/train/a/1.png", "3.png"))
    assert taken(dataset) == {"train": ["a: train/a/1.png"]}
    assert left_out(dataset) == {
        "beside_splits": (2, ["3.png", "chest/train/a/1.png"]),
        "no_class": (1, ["train/2.png"]),
    }


# content


def test_a_files_format_is_in_its_bytes_whatever_its_name_says(tmp_path):
    folder_of(tmp_path, **{"a/1.jpg": PNG, "a/2.png": JPEG, "a/3": PNG, "a/4.txt": JPEG, "a/5.webp": PNG})
    dataset = open_image_folder(tmp_path)
    assert [dataset.sample("all", i).codec for i in range(5)] == ["png", "jpeg", "png", "jpeg", "png"]
    assert dataset.sample("all", 1).payload == JPEG


def test_what_is_no_image_is_left_out_by_what_it_is(tmp_path):
    folder_of(
        tmp_path,
        "a/0.png",
        **{
            "README.dataset.txt": b"Roboflow",
            "a/1.jpg": b"",
            "a/2.tif": b"II*\0\0\0",
            "a/3.heic": b"\0\0\0\x24ftypheic",
            "a/4.jpg": b"<!DOCTYPE html>",
            "a/5.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "a/6.jpg": b"/annex/objects/SHA256E-s1--4d7a.jpg\n",
            "a/7.txt": b"0 0.5 0.5 0.1 0.1\n",
            "notes/8.md": b"# Notes\n",
        },
    )
    dataset = open_image_folder(tmp_path)
    assert dataset.labels == ("a",)
    assert left_out(dataset) == {
        "empty": (1, ["a/1.jpg"]),
        "pointer": (2, ["a/5.jpg", "a/6.jpg"]),
        "other_image": (2, ["a/2.tif", "a/3.heic"]),
        "not_an_image": (4, ["README.dataset.txt", "a/4.jpg", "a/7.txt", "notes/8.md"]),
    }
    assert num_accounted_for(dataset) == num_files(tmp_path)


def test_hidden_files_and_junk_are_left_out_with_all_that_is_in_them(tmp_path):
    junk = [
        "a/Thumbs.db",
        "a/._1.png",
        "a/desktop.ini",
        "__MACOSX/a/._1.png",
        "__MACOSX/b/2.png",
        "a/@eaDir/1.png/thumb.jpg",
    ]
    hidden = ["a/.DS_Store", ".ipynb_checkpoints/1.png", ".git/objects/4d/7a", ".git/HEAD"]
    dataset = open_image_folder(folder_of(tmp_path, "a/1.png", *junk, *hidden))
    assert taken(dataset) == {"all": ["a: a/1.png"]}
    assert left_out(dataset) == {
        "junk": (6, ["__MACOSX/", "a/._1.png", "a/@eaDir/", "a/Thumbs.db", "a/desktop.ini"]),
        "hidden": (4, [".git/", ".ipynb_checkpoints/", "a/.DS_Store"]),
    }
    assert num_accounted_for(dataset) == num_files(tmp_path)


def test_names_that_cannot_be_shown_are_escaped(tmp_path):
    folder_of(tmp_path, "a/0.png", **{"a/\x1b[2Jx": b"x", os.fsdecode(b"a/\xff"): b"x"})
    dataset = open_image_folder(tmp_path)
    assert left_out(dataset) == {"not_an_image": (2, ["a/\\x1b[2Jx", "a/\\udcff"])}
    str(dataset.left_out[0]).encode()


@pytest.mark.parametrize("root", ["flat", "a/deep/er"])
def test_devices_fifos_and_sockets_are_never_opened(tmp_path, root, monkeypatch):
    folder = folder_of(tmp_path, f"{root}/0.png") / root
    os.mkfifo(folder / "1.jpg")
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("2.jpg")
    dataset = open_image_folder(tmp_path)
    assert left_out(dataset) == {"special_file": (2, [f"{root}/1.jpg", f"{root}/2.jpg"])}


def test_a_fifo_in_the_place_of_a_listed_file_is_not_waited_for(tmp_path):
    dataset = open_image_folder(folder_of(tmp_path, "a/1.png"))
    (tmp_path / "a/1.png").unlink()
    os.mkfifo(tmp_path / "a/1.png")
    with pytest.raises(StorageError, match=r"1\.png: it is no regular file"):
        dataset.sample("all", 0)


def test_files_that_change_after_they_were_listed_are_errors_of_their_own(tmp_path):
    dataset = open_image_folder(folder_of(tmp_path, "a/1.png", "a/2.png", "a/3.png"))
    (tmp_path / "a/1.png").unlink()
    (tmp_path / "a/2.png").write_bytes(b"none")
    with (tmp_path / "a/3.png").open("ab") as file:
        file.truncate(65 << 20)
    for index, error in enumerate([StorageError, FormatError, StorageError]):
        with pytest.raises(error, match=rf"{index + 1}\.png"):
            dataset.sample("all", index)


def test_a_folder_without_images_is_refused_with_what_there_is(tmp_path):
    with pytest.raises(FormatError, match=r"no images .*\n  left out: 1 file without an image \(a/readme\.md\)"):
        open_image_folder(folder_of(tmp_path, **{"a/readme.md": b"#"}))
    with pytest.raises(StorageError):
        open_image_folder(tmp_path / "gone")


def test_a_name_that_a_mac_wrote_is_readable_unless_another_one_looks_the_same(tmp_path):
    folder = folder_of(tmp_path, "1.png", **{"mu\u0308ll.txt": b"", "ru\u0308be.txt": b"", "m\u00fcll.txt": b"#"})
    assert [str(each) for each in open_image_folder(folder).left_out] == [
        "2 empty files (mu\\u0308ll.txt, ru\u0308be.txt)",
        "1 file without an image (m\u00fcll.txt)",
    ]


# links


def linked(links: dict[str, str], *files: str) -> Callable[..., ImageFolder]:
    def make(tmp_path, below="set", **options):
        folder_of(tmp_path, *files)
        for name, target in links.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).symlink_to(target.format(tmp_path))
        return open_image_folder(tmp_path / below, **options)

    return make


def test_links_are_left_out_unless_they_are_asked_for(tmp_path):
    make = linked({"set/a/2.png": "1.png", "set/b": "a"}, "set/a/1.png")
    dataset = make(tmp_path)
    assert taken(dataset) == {"all": ["a: a/1.png"]}
    assert left_out(dataset) == {"link": (2, ["b", "a/2.png"])}
    assert "--follow-links" in str(dataset.left_out[0])


def test_links_are_followed_below_the_folder_alone(tmp_path):
    make = linked(
        {
            "set/a/2.png": "../store/1.png",
            "set/a/3.png": "../../outside/1.png",
            "set/a/4.png": "{}/outside/1.png",
            "set/a/5.png": "nowhere.png",
            "set/a/6.png": "6.png",
            "set/a/7.png": "/dev/zero",
            "set/b": "../set/.store",
            "set/c": "../outside",
        },
        "set/a/1.png",
        "set/store/1.png",
        "set/.store/2024/1.png",
        "outside/1.png",
    )
    dataset = make(tmp_path, follow_links=True)
    assert taken(dataset) == {"all": ["a: a/1.png", "a: a/2.png", "b: b/2024/1.png", "store: store/1.png"]}
    assert left_out(dataset) == {
        "hidden": (1, [".store/"]),
        "broken_link": (2, ["a/5.png", "a/6.png"]),
        "link_outside": (4, ["c", "a/3.png", "a/4.png", "a/7.png"]),
    }
    assert dataset.sample("all", 1).payload == PNG


def test_links_in_circles_and_to_what_is_listed_come_to_an_end(tmp_path):
    make = linked({"set/a/up": "..", "set/b": "a", "set/a/self": ".", "set/0": "b"}, "set/a/1.png")
    dataset = make(tmp_path, follow_links=True)
    assert taken(dataset) == {"all": ["a: a/1.png"]}
    assert left_out(dataset) == {"link_again": (4, ["0/", "b/", "a/self/", "a/up/"])}


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize(
    ("below", "file"),
    [
        ("hub/datasets--x--y/snapshots/4d7a", "hub/datasets--x--y/blobs/e1"),
        ("repo/photos", "repo/.dvc/cache/files/md5/4d/7a"),
        ("repo/photos", "repo/.git/annex/objects/Xk/e1/e1.png"),
        ("repo", "repo/.git/annex/objects/Xk/e1/e1.png"),
    ],
    ids=["Hugging Face", "DVC", "git-annex", "git-annex at the top"],
)
def test_links_into_the_store_of_the_folder_are_followed(tmp_path, below, file, absolute):
    target = tmp_path / file
    link = str(target) if absolute else os.path.relpath(target, tmp_path / below / "train" / "a")
    make = linked({f"{below}/train/a/1.png": link}, file)
    assert taken(make(tmp_path, below, follow_links=True)) == {"train": ["a: train/a/1.png"]}
    with pytest.raises(FormatError, match=r"1 link not followed: --follow-links .*\(train/a/1\.png\)"):
        open_image_folder(tmp_path / below)
    target.unlink()
    with pytest.raises(FormatError, match=r"1 broken link: git annex get, dvc pull"):
        open_image_folder(tmp_path / below, follow_links=True)


def test_the_folder_of_a_hugging_face_cache_is_no_data_set(tmp_path):
    folder_of(tmp_path, "blobs/e1", "refs/main", "snapshots/4d7a/a/1.png")
    with pytest.raises(FormatError, match=r"name one of the folders in .*/snapshots"):
        open_image_folder(tmp_path)


def test_hard_links_are_files(tmp_path):
    folder_of(tmp_path, "a/1.png")
    os.link(tmp_path / "a/1.png", tmp_path / "a/2.png")
    assert taken(open_image_folder(tmp_path)) == {"all": ["a: a/1.png", "a: a/2.png"]}
