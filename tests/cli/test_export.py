"""`edged archive export`: what is written, and that it can be brought in again."""

import json
import tarfile

import pytest

from edged.cli import main
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample
from tests.support.archive_samples import file_name, open_archive, segment

TOPOLOGY = """
schema: 1
site: greenhouse
kafka: {{bootstrap: ["localhost:9092"]}}
streams:
  fruit: {{sample: {{shape: [4, 4, 1], dtype: uint8}}, labels: [green, ripe]}}
iot: [{{name: cam-01, edge: pi-a, stream: fruit}}]
edges: [{{name: pi-a}}]
archive: [{{name: vault, url: "file://{0}/archive"}}]
"""


def sample(offset, label):
    return Sample("cam-01", 0, offset, 0, label, "raw", bytes([offset] * 16))


@pytest.fixture
def edged(tmp_path, capsys):
    path = tmp_path / "site.yaml"
    path.write_text(TOPOLOGY.format(tmp_path))
    store = open_archive(tmp_path / "archive")
    store.create("greenhouse")
    store.append("fruit", "pi-a", [(0, Pack("fruit", (sample(0, "ripe"), sample(1, None), sample(2, "green"))))])
    store.append("fruit", "_test.pears", [(0, Pack("fruit", (sample(3, "ripe"), sample(4, "../x"))))])

    def run(action, *arguments):
        code = main(["archive", action, str(path), *arguments])
        return code, *capsys.readouterr()

    return run


def test_class_folders_can_be_imported_again(edged, tmp_path):
    out = tmp_path / "out"

    code, text, _ = edged("export", "--to", str(out))

    assert code == 0
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == [
        "test/ripe/_test+pears-000000000000-000.png",
        "train/green/pi-a-000000000000-002.png",
        "train/ripe/pi-a-000000000000-000.png",
    ]
    assert text.splitlines() == [
        "left out: 1 sample: label is no name of a folder",
        "left out: 1 sample: unlabelled",
        f"{out}: 3 samples, 1 of split test and 2 of split train; 2 left out",
    ]
    code, text, _ = edged("import", "--from", str(out), "--name", "again", "--json")
    assert (code, json.loads(text)["splits"]) == (0, {"train": 2, "test": 1})


def test_tar_files_hold_samples_without_labels_too(edged, tmp_path):
    out = tmp_path / "out"

    code, text, _ = edged("export", "--to", str(out), "--form", "webdataset", "--json")

    assert code == 0
    assert json.loads(text) == {
        "stream": "fruit",
        "folder": str(out),
        "form": "webdataset",
        "splits": {"test": 2, "train": 3},
        "left_out": {},
        "damaged_files": 0,
    }
    with tarfile.open(out / "train-000000.tar") as tar:
        assert sum(each.name.endswith(".png") for each in tar) == 3


def test_what_is_in_quarantine_stays(edged, tmp_path):
    assert edged("quarantine", "fruit/pi-a/0/0")[0] == 0

    _, text, _ = edged("export", "--to", str(tmp_path / "out"), "--json")

    assert json.loads(text)["left_out"]["in quarantine"] == 1


def test_nothing_is_overwritten(edged, tmp_path):
    (tmp_path / "out").write_text("mine")

    code, _, err = edged("export", "--to", str(tmp_path / "out"))

    assert code == 74
    assert "is there already: name another folder, or delete it" in err
    assert (tmp_path / "out").read_text() == "mine"


def test_a_file_that_cannot_be_read_is_told_and_the_others_are_written(edged, tmp_path):
    (segment(tmp_path / "archive", "_test.pears", stream="fruit") / file_name(0)).write_bytes(b"PAR1")

    code, text, _ = edged("export", "--to", str(tmp_path / "out"))

    assert code == 1
    *_, total, damaged = text.splitlines()
    assert total.endswith("2 samples, 2 of split train; 1 left out")
    assert damaged == "left out: 1 file, which cannot be read: `edged archive verify` says why"
    _, listed, _ = edged("ls")
    assert "fruit/_test.pears: 1 file cannot be read: `edged archive verify` says why" in listed.splitlines()
