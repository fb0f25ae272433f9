"""`edged archive import` of data sets as people have them: what is taken, and an account of all the rest."""

import io
import json
import os
import shutil
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edged.adapters.images import PillowDecoder
from edged.cli import main
from edged.domain.archive.snapshot import BlockRef
from tests.support.archive_samples import open_archive

TOPOLOGY = """
schema: 1
site: greenhouse
kafka: {{bootstrap: ["localhost:9092"]}}
streams:
  fruit:
    sample: {{shape: [8, 8, 3], dtype: uint8}}
    labels: [green, ripe]
  beds: {{sample: {{shape: [8, 8, 3], dtype: uint8}}}}
  wear:
    sample: {{shape: [2], dtype: float32}}
    labels: [ok, worn]
iot: [{{name: cam-01, edge: pi-a, stream: fruit}}]
edges: [{{name: pi-a}}]
archive: [{{name: vault, url: "file://{0}/archive"}}]
"""


@pytest.fixture
def bring(tmp_path, capsys):
    """Run `edged archive import`: the exit code, stdout and stderr."""
    path = tmp_path / "site.yaml"
    path.write_text(TOPOLOGY.format(tmp_path))

    def run(spec, *arguments, stream="fruit"):
        code = main(["archive", "import", str(path), "--stream", stream, "--from", str(spec), *arguments])
        return code, *capsys.readouterr()

    return run


def archived(tmp_path, stream="fruit"):
    """The samples of each source."""
    store = open_archive(tmp_path / "archive")
    assert list(store.verify()) == []
    samples = {}
    for source, end in store.ends(stream).items():
        blocks = store.read(stream, [BlockRef(source, offset) for offset in range(end)])
        samples[source] = [sample for _, pack in blocks for sample in pack.samples]
    return samples


def photo(path, file_format="jpeg", shade=100, size=(9, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 50, 50)).save(path, file_format)
    return path


def fruit(folder):
    """Two splits and two classes in folders by month, in three formats all named .jpg, and what else lies there."""
    for label in ("green", "ripe"):
        for file_format in ("jpeg", "png", "webp"):
            photo(folder / "train" / label / f"{file_format}.jpg", file_format)
            photo(folder / "train" / label / "2024-05" / f"{file_format}.webp", file_format)
            photo(folder / "valid" / label / f"{file_format}.jpg", file_format)
    (folder / "README.roboflow.txt").write_text("exported")
    (folder / "train" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    (folder / "train" / "ripe" / "empty.jpg").touch()
    whole = photo(folder / "train" / "ripe" / "torn.jpg", size=(90, 90)).read_bytes()
    (folder / "train" / "ripe" / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


def test_every_file_is_taken_or_left_out_with_its_reason(bring, tmp_path):
    folder = fruit(tmp_path / "photos")
    assert bring(folder) == (
        0,
        f"""\
file://{tmp_path}/archive is an archive now
fruit/_train.photos: 12 samples imported
fruit/_test.photos: 6 samples imported
left out: 1 file made by an operating system or a tool, not by you (train/Thumbs.db)
left out: 1 empty file (train/ripe/empty.jpg)
left out: 1 file without an image (README.roboflow.txt)
left out: 1 image cut short or damaged (train/ripe/torn.jpg)
photos: 22 items, 12 of split train and 6 of split val taken, 4 left out
""",
        "",
    )
    decoder, samples = PillowDecoder(), archived(tmp_path)
    assert {source: len(each) for source, each in samples.items()} == {"_train.photos": 12, "_test.photos": 6}
    for sample in samples["_train.photos"]:
        assert np.abs(decoder.decode(sample.payload, sample.codec, (8, 8, 3)).astype(int) - (100, 50, 50)).max() < 9
    assert sorted(sample.codec for sample in samples["_train.photos"]) == ["jpeg"] * 4 + ["png"] * 8


def test_the_account_is_also_json_and_the_same_when_it_is_imported_again(bring, tmp_path):
    folder = fruit(tmp_path / "photos")
    account: dict[str, Any] = {
        "dataset": "photos",
        "stream": "fruit",
        "splits": {"train": 12, "val": 6},
        "not_asked_for": 0,
        "labelled": 19,
        "unlabelled": 0,
        "sources": [
            {"source": "_train.photos", "new": 12, "samples": 12},
            {"source": "_test.photos", "new": 6, "samples": 6},
        ],
        "left_out": [
            {"reason": "junk", "count": 1, "first": ["train/Thumbs.db"]},
            {"reason": "empty", "count": 1, "first": ["train/ripe/empty.jpg"]},
            {"reason": "not_an_image", "count": 1, "first": ["README.roboflow.txt"]},
            {"reason": "truncated", "count": 1, "first": ["train/ripe/torn.jpg"]},
        ],
    }
    code, out, _ = bring(folder, "--json")
    assert (code, json.loads(out)) == (0, account)
    code, out, err = bring(folder, "--json")
    again = [{**source, "new": 0} for source in account["sources"]]
    assert (code, json.loads(out), err) == (0, {**account, "sources": again}, "")


@pytest.mark.parametrize("options", [(), ("--limit", "5"), ("--split", "train"), ("--split", "val", "--limit", "2")])
def test_each_item_is_counted_once(bring, tmp_path, options):
    for _ in range(2):  # the second time all is there already
        _, out, _ = bring(fruit(tmp_path / "photos"), "--json", *options)
        account = json.loads(out)
        taken, left_out = sum(account["splits"].values()), sum(each["count"] for each in account["left_out"])
        assert taken + left_out + account["not_asked_for"] == 22
        assert taken == sum(source["samples"] for source in account["sources"])


def test_what_a_limit_leaves_is_counted_too(bring, tmp_path):
    code, out, _ = bring(fruit(tmp_path / "photos"), "--split", "val", "--limit", "2")
    assert code == 0
    assert out.splitlines()[-1] == (
        "photos: 22 items, 0 of split train and 2 of split val taken, 3 left out, 17 not asked for (--split, --limit)"
    )


def test_labels_that_the_stream_does_not_have_are_named_with_their_first_files(bring, tmp_path):
    folder = fruit(tmp_path / "photos")
    (folder / "train" / "ripe").rename(folder / "train" / "rpie")
    (folder / "valid" / "ripe").rename(folder / "valid" / "Mu\u0308ll")
    code, _, err = bring(folder)
    assert (code, err.splitlines()) == (
        64,
        [
            "edged archive: photos has 2 labels that stream fruit does not have",
            '  "M\u00fcll": 3 items, first valid/Mu\u0308ll/jpeg.jpg',
            '  "rpie": 7 items, first train/rpie/2024-05/jpeg.webp (did you mean "ripe"?)',
            "  the stream has green, ripe",
            "  correct the names of the folders, or add labels to streams.fruit.labels of the topology",
        ],
    )
    path = tmp_path / "wear.csv"
    path.write_text(CSV + "3,4,wrn\n")
    code, _, err = bring(path, stream="wear")
    assert '"wrn": 1 item, first line 4 (did you mean "worn"?)' in err
    assert 'correct the column "label"' in err


def test_items_without_labels_are_counted_where_the_stream_has_labels(bring, tmp_path):
    for number in range(3):
        photo(tmp_path / "photos" / f"{number}.jpg", shade=number)
    code, out, err = bring(tmp_path / "photos", "--json")
    assert (code, json.loads(out)["unlabelled"], err.splitlines()[1:]) == (
        0,
        3,
        [
            "edged archive: warning: photos has 3 of 3 items without a label, while stream fruit has labels",
            (
                "  no classifier is trained on them: write their labels where they are read from"
                " (the names of the folders), and import under a new --name"
            ),
        ],
    )


def test_labels_that_an_unlabelled_stream_does_not_learn_are_archived_and_counted(bring, tmp_path):
    for label in ("green", "ripe"):
        photo(tmp_path / "photos" / label / "1.jpg")
    code, out, err = bring(tmp_path / "photos", "--json", "--test-fraction", "0", stream="beds")
    assert (code, json.loads(out)["labelled"], err.splitlines()[1:]) == (
        0,
        2,
        [
            "edged archive: warning: photos has 2 of 2 items with a label, while stream beds has no labels",
            "  they are archived, and not learnt before they are listed in streams.beds.labels of the topology",
        ],
    )
    (samples,) = archived(tmp_path, "beds").values()
    assert {each.label for each in samples} == {"green", "ripe"}


def test_a_person_who_watches_sees_how_far_it_is(bring, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    folder, terminal = fruit(tmp_path / "photos"), Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert bring(folder)[0] == 0
    assert all(title in terminal.getvalue() for title in ("listing: ", "fruit/_train.photos: ", "fruit/_test.photos: "))


def test_links_are_named_and_followed_on_request(bring, tmp_path):
    snapshot = tmp_path / "datasets--x--fruit" / "snapshots" / "4d7a"
    for number, label in enumerate(["green", "ripe"]):
        blob = photo(tmp_path / "datasets--x--fruit" / "blobs" / f"e{number}")
        (snapshot / label).mkdir(parents=True)
        (snapshot / label / "1.jpg").symlink_to(os.path.relpath(blob, snapshot / label))
    code, _, err = bring(snapshot, "--name", "fruit")
    assert code == 64
    assert "left out: 2 links not followed: --follow-links takes those that lead below" in err
    assert not (tmp_path / "archive").exists()
    code, out, _ = bring(snapshot, "--name", "fruit", "--follow-links", "--test-fraction", "0")
    assert (code, out.splitlines()[1]) == (0, "fruit/_train.fruit: 2 samples imported")


def test_a_photo_too_large_for_a_message_is_scaled(bring, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    path = photo(tmp_path / "photos" / "ripe" / "1.jpg")
    Image.fromarray(noise).save(path, "jpeg", quality=100)
    assert path.stat().st_size > 900_000
    assert bring(tmp_path / "photos", "--test-fraction", "0")[0] == 0
    (sample,) = archived(tmp_path)["_train.photos"]
    assert (sample.codec, len(sample.payload) < 1000) == ("png", True)


def test_nothing_that_can_be_imported_is_an_error_that_says_why(bring, tmp_path):
    photo(tmp_path / "photos" / "ripe" / "1.png", "png", size=(2500, 1700))
    code, _, err = bring(tmp_path / "photos")
    assert code == 64
    assert err == (
        "edged archive: photos: there is no sample to import\n  left out: 1 image with too many pixels (ripe/1.png)\n"
    )
    assert bring(tmp_path / "photos", stream="wear")[0] == 64


CSV = "a,b,label\n0.5,1,ok\n-2,0.25,worn\n"


@pytest.mark.parametrize(
    ("name", "content", "arguments"),
    [
        ("good.csv", CSV, ()),
        ("UPPER.CSV", CSV, ()),
        ("table.txt", CSV, ()),
        ("blank.csv", CSV + "\n", ()),
        ("comma.csv", CSV.replace(",", ";").replace(".", ","), ()),
        ("no-header.csv", CSV.partition("\n")[2], ("--header", "no")),
        ("names.csv", CSV.replace("a,b,label", "400,410,label"), ("--header", "yes")),
        ("utf16.csv", CSV.encode("utf-16"), ()),
    ],
)
def test_csv_files_of_loggers_and_spreadsheets(bring, tmp_path, name, content, arguments):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, _ = bring(path, "--test-fraction", "0", "--json", *arguments, stream="wear")
    assert (code, json.loads(out)["left_out"]) == (0, [])
    (samples,) = archived(tmp_path, "wear").values()
    assert {each.label: np.frombuffer(each.payload, "<f4").tolist() for each in samples} == {
        "ok": [0.5, 1],
        "worn": [-2, 0.25],
    }


def test_rows_that_are_none_are_named_by_their_lines(bring, tmp_path):
    path = tmp_path / "wear.csv"
    path.write_text(CSV + "1_0,2,ok\nnan,2,ok\n")
    code, out, _ = bring(path, "--test-fraction", "0", stream="wear")
    assert code == 0
    assert out.splitlines()[1:] == [
        "wear/_train.wear: 2 samples imported",
        'left out: 2 rows with a field that is no number (line 4: a is "1_0", line 5: a is "nan")',
        "wear: 4 items, 2 taken, 2 left out",
    ]


def test_a_header_is_asked_for_where_it_cannot_be_told(bring, tmp_path):
    path = tmp_path / "wear.csv"
    path.write_text("400,410\n1,2\n")
    code, _, err = bring(path, stream="wear")
    assert code == 64
    assert "say so with --header yes or --header no" in err
    code, _, err = bring(path, "--header", "maybe", stream="wear")
    assert code == 64
    assert '"maybe" is neither yes nor no' in err


@pytest.mark.parametrize(("first", "samples"), [("400,410,ok", 2), ("400,410,state", 1)], ids=["data", "names"])
def test_a_header_is_told_by_the_labels_of_the_stream(bring, tmp_path, first, samples):
    path = tmp_path / "wear.csv"
    path.write_text(f"{first}\n1,2,worn\n")
    code, out, _ = bring(path, "--json", "--test-fraction", "0", stream="wear")
    assert (code, json.loads(out)["splits"]) == (0, {"all": samples})


def test_no_control_character_of_a_name_reaches_the_terminal(bring, tmp_path):
    folder = tmp_path / "e\x1b[31mvil"
    photo(folder / "ripe" / "1.jpg")
    outputs = [bring(folder), bring(folder, stream="wear"), bring(tmp_path / "e\x1b[32mvil")]
    assert not any("\x1b" in text for _, *texts in outputs for text in texts)


def test_an_interrupted_import_of_a_folder_goes_on(bring, tmp_path):
    folder = fruit(tmp_path / "photos")
    assert bring(folder, "--limit", "5")[0] == 0
    code, out, _ = bring(folder, "--json")
    assert code == 0
    assert json.loads(out)["sources"][0]["samples"] == 12
    shutil.rmtree(tmp_path / "archive")
    bring(folder)
    whole = archived(tmp_path)
    assert {sample.offset for sample in whole["_train.photos"]} <= set(range(13))
