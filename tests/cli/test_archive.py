"""What a user sees of `edged archive`: imports that can be interrupted, lists, and findings."""

import argparse
import json
import os
import pwd
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from edged import cli
from edged.adapters.memory.archive import MemoryArchive
from edged.adapters.parquet.store import ParquetStore
from edged.cli import archive
from edged.cli.archive import data_set
from edged.domain.archive.layout import SEGMENT
from edged.domain.archive.segment_index import MAX_TAIL
from edged.domain.samples.pack import Pack
from edged.domain.topology import Dtype, Stream
from edged.errors import DiskFull, FormatError
from edged.ports import Item, LeftOut
from edged.services.archive import importer
from tests.cli.conftest import VALID
from tests.support.archive_samples import new_archive, open_archive, pack
from tests.support.archive_samples import sample as sample_at

LABELS = ("bag", "boot", "coat")
STREAM = Stream("fashion", (2, 2, 1), "uint8", LABELS)


@dataclass
class Shoebox:
    """A data set with the given numbers of items, whose payloads tell them apart."""

    counts: dict[str, int] = field(default_factory=lambda: {"train": 1000, "test": 300})
    labels: tuple[str, ...] = LABELS
    shape: tuple[int, ...] | None = (2, 2, 1)
    name: str = "shoebox"
    dtype: Dtype = "uint8"
    num_bytes: int = 4
    left_out: tuple[LeftOut, ...] = ()
    label_place: str = "the lid"

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.counts)

    def count(self, split: str) -> int:
        return self.counts[split]

    def sample(self, split: str, index: int) -> Item:
        assert 0 <= index < self.counts[split]
        return Item(self.label(split, index), "raw", index.to_bytes(4, "big").ljust(self.num_bytes))

    def label(self, split: str, index: int) -> str:
        return LABELS[index * 3 // self.counts[split]]

    def item_name(self, split: str, index: int) -> str:
        return f"{split} {index}"


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    archive.configure(parser)
    return parser.parse_args(["import", "site.yaml", "--from", "shoebox", *words])


def indices(store: MemoryArchive, source: str) -> list[int]:
    return [sample.offset for _, pack in sorted(store.blocks("fashion", source).items()) for sample in pack.samples]


def test_an_import_brings_each_sample_into_its_source_once(capsys):
    store = MemoryArchive()

    assert data_set.import_dataset(store, STREAM, Shoebox(), arguments()) == 0

    assert sorted(indices(store, "_train.shoebox")) == list(range(1000))
    assert sorted(indices(store, "_test.shoebox")) == list(range(300))
    assert capsys.readouterr().out.splitlines() == [
        "fashion/_train.shoebox: 1,000 samples imported",
        "fashion/_test.shoebox: 300 samples imported",
        "shoebox: 1,300 items, 1,000 of split train and 300 of split test taken, 0 left out",
    ]


def test_imported_samples_are_as_in_the_data_set():
    store, shoebox = MemoryArchive(), Shoebox()
    data_set.import_dataset(store, STREAM, shoebox, arguments("--name", "shoes", "--split", "train"))

    for sample in store.blocks("fashion", "_train.shoes")[1].samples:
        item = shoebox.sample("train", sample.offset)
        assert (sample.device, sample.partition, sample.arrived_ms) == ("import", 0, 0)
        assert (sample.label, sample.codec, sample.payload) == (item.label, item.codec, item.payload)
    assert store.ends("fashion") == {"_train.shoes": 4}


def test_blocks_are_full_and_mix_the_classes():
    store = MemoryArchive()
    data_set.import_dataset(store, STREAM, Shoebox(), arguments("--split", "train"))
    blocks = store.blocks("fashion", "_train.shoebox")

    assert [len(blocks[offset].samples) for offset in range(4)] == [256, 256, 256, 232]
    assert all({sample.label for sample in block.samples} == set(LABELS) for block in blocks.values())


def test_blocks_of_large_images_stay_below_the_limit_of_a_pack():
    store = MemoryArchive()
    large = Shoebox({"train": 20}, shape=(500, 400, 1), num_bytes=200_000)
    stream = replace(STREAM, shape=(500, 400, 1))
    data_set.import_dataset(store, stream, large, arguments("--split", "train"))

    assert [len(pack.samples) for pack in store.blocks("fashion", "_train.shoebox").values()] == [3] * 6 + [2]


def test_importing_again_adds_nothing_and_says_so(capsys):
    store = MemoryArchive()
    data_set.import_dataset(store, STREAM, Shoebox(), arguments())
    before = store.ends("fashion")
    capsys.readouterr()

    data_set.import_dataset(store, STREAM, Shoebox(), arguments())

    assert store.ends("fashion") == before
    assert capsys.readouterr().out.splitlines()[0] == "fashion/_train.shoebox: complete with 1,000 samples"


@pytest.mark.parametrize("files", [1, 2, 3])
def test_an_interrupted_import_goes_on_at_the_next_block(monkeypatch, files):
    monkeypatch.setattr(importer, "FILE_BYTES", 256 * 520)
    store, appended = MemoryArchive(), 0
    append = store.append

    def interrupt(*args):
        nonlocal appended
        if appended == files:
            raise DiskFull("no space")
        appended += 1
        append(*args)

    with monkeypatch.context() as patch:
        patch.setattr(store, "append", interrupt)
        with pytest.raises(DiskFull):
            data_set.import_dataset(store, STREAM, Shoebox(), arguments())
    data_set.import_dataset(store, STREAM, Shoebox(), arguments())
    whole = MemoryArchive()
    data_set.import_dataset(whole, STREAM, Shoebox(), arguments())

    for source in ("_train.shoebox", "_test.shoebox"):
        assert store.blocks("fashion", source) == whole.blocks("fashion", source)


def test_another_seed_or_a_lower_limit_does_not_mix_with_an_earlier_import():
    store = MemoryArchive()
    data_set.import_dataset(store, STREAM, Shoebox(), arguments("--limit", "256"))

    with pytest.raises(FormatError, match="another --name"):
        data_set.import_dataset(store, STREAM, Shoebox(), arguments("--seed", "7"))
    with pytest.raises(FormatError, match="another --name"):
        data_set.import_dataset(store, STREAM, Shoebox(), arguments("--limit", "100"))


def test_a_higher_limit_goes_on_with_an_earlier_import():
    store = MemoryArchive()
    for limit in ("256", "600"):
        data_set.import_dataset(store, STREAM, Shoebox(), arguments("--limit", limit, "--split", "train"))

    assert len(set(indices(store, "_train.shoebox"))) == 600


def test_a_limit_takes_a_mixed_part():
    store = MemoryArchive()
    data_set.import_dataset(store, STREAM, Shoebox(), arguments("--limit", "100"))

    assert len(indices(store, "_train.shoebox")) == len(indices(store, "_test.shoebox")) == 100
    assert len({sample.label for sample in store.blocks("fashion", "_train.shoebox")[0].samples}) == 3


def test_without_a_test_split_a_share_is_held_out_always_the_same():
    stores = [MemoryArchive(), MemoryArchive()]
    for store in stores:
        data_set.import_dataset(store, STREAM, Shoebox({"train": 500}), arguments("--test-fraction", "0.2"))
    train, test = (indices(stores[0], source) for source in ("_train.shoebox", "_test.shoebox"))

    assert (len(train), len(test)) == (400, 100)
    assert sorted(train + test) == list(range(500))
    assert indices(stores[1], "_test.shoebox") == test


def test_labels_that_the_stream_does_not_have_are_named():
    stream = replace(STREAM, labels=("bagg", "left\u00a0sock"))
    with pytest.raises(FormatError) as caught:
        data_set.import_dataset(MemoryArchive(), stream, Shoebox(shape=(3, 3)), arguments())
    assert (
        str(caught.value)
        == """\
shoebox has 3 labels that stream fashion does not have
  "bag": 434 items, first train 0 (did you mean "bagg"?)
  "boot": 433 items, first train 334
  "coat": 433 items, first train 667
  the stream has bagg, left\\xa0sock
  correct the lid, or add labels to streams.fashion.labels of the topology
shoebox holds uint8 [3, 3], and stream fashion uint8 [2, 2, 1]: correct streams.fashion.sample, or name another \
--stream"""
    )


def test_samples_of_another_shape_are_refused():
    with pytest.raises(FormatError, match=r"uint8 \[3, 3\], and stream fashion uint8 \[2, 2, 1\]"):
        data_set.import_dataset(MemoryArchive(), STREAM, Shoebox(shape=(3, 3)), arguments())


def test_rows_of_as_many_numbers_as_a_sample_has_are_samples():
    store = MemoryArchive()
    data_set.import_dataset(store, STREAM, Shoebox({"train": 9}, shape=(4,)), arguments("--test-fraction", "0"))
    assert len(indices(store, "_train.shoebox")) == 9


def test_a_split_that_is_not_there_is_named():
    with pytest.raises(FormatError, match="no split 'test', only train"):
        data_set.import_dataset(MemoryArchive(), STREAM, Shoebox({"train": 9}), arguments("--split", "test"))


@pytest.fixture
def topology_file(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(f"""
schema: 1
site: greenhouse
kafka: {{bootstrap: ["localhost:9092"]}}
streams:
  fashion:
    sample: {{shape: [28, 28, 1], dtype: uint8}}
    labels: [t-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, boot]
iot: [{{name: cam-01, edge: pi-a, stream: fashion}}]
edges: [{{name: pi-a}}]
archive: [{{name: vault, url: "file://{tmp_path}/archive"}}]
""")
    return path


@pytest.fixture
def store(topology_file: Path, tmp_path: Path) -> ParquetStore:
    store = new_archive(tmp_path / "archive")
    topology_file.write_text(topology_file.read_text().replace("[28, 28, 1]", "[2, 2, 1]"))
    data_set.import_dataset(store, STREAM, Shoebox(), arguments())
    return store


def test_ls_shows_each_source(topology_file, store, capsys):
    capsys.readouterr()
    assert cli.main(["archive", "ls", str(topology_file), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    sources = shown["sources"]
    assert shown["quarantine"] == []
    assert [(each["source"], each["samples"], each["blocks"]) for each in sources] == [
        ("_test.shoebox", 300, 2),
        ("_train.shoebox", 1000, 4),
    ]

    assert cli.main(["archive", "ls", str(topology_file)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["stream", "source", "files"]
    assert [row.split()[1] for row in rows] == ["_test.shoebox", "_train.shoebox"]


def test_ls_names_the_files_that_count_for_other_readers(topology_file, store, tmp_path, capsys):
    capsys.readouterr()
    assert cli.main(["archive", "ls", str(topology_file), "--files"]) == 0
    named = capsys.readouterr().out.splitlines()
    assert len(named) == 2
    for url in named:
        assert url.startswith(f"file://{tmp_path}/archive/fashion/")
        assert Path(url.removeprefix("file://")).is_file()
    assert cli.main(["archive", "ls", str(topology_file), "--files", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"files": named}


def test_compact_packs_small_files_and_says_so(topology_file, tmp_path, capsys):
    store = new_archive(tmp_path / "archive")
    for offset in range(MAX_TAIL + 1):
        store.append("fashion", "pi-a", [(offset, pack(4 * offset))])
    store.append("fashion", "pi-a", [(SEGMENT, pack(0))], [(MAX_TAIL + 1, SEGMENT)])
    store.append("fashion", "pi-a", [(SEGMENT + 1, pack(4))])

    assert cli.main(["archive", "compact", str(topology_file)]) == 0
    assert capsys.readouterr().out.startswith(f"fashion/pi-a: {MAX_TAIL + 2} files packed into 1 (")
    assert cli.main(["archive", "compact", str(topology_file), "--grace", "0s", "--json"]) == 0
    [shown] = json.loads(capsys.readouterr().out)["sources"]
    assert (shown["source"], shown["packed"], shown["deleted"]) == ("pi-a", 0, MAX_TAIL + 2)
    assert cli.main(["archive", "compact", str(topology_file)]) == 0
    assert capsys.readouterr().out == "nothing to pack and nothing to delete\n"
    assert open_archive(tmp_path / "archive").snapshot("fashion").num_blocks == MAX_TAIL + 3


def test_retain_forgets_what_is_beyond_the_limits_and_says_so(topology_file, tmp_path, capsys):
    """First what would go; forgotten at once, deleted once its grace is over; ls shows where the source begins."""
    text = topology_file.read_text().replace('/archive"', '/archive", retention: {size: 1MiB}')
    topology_file.write_text(text)
    store = new_archive(tmp_path / "archive")
    payload = os.urandom(600_000)
    for offset in range(3):
        sample = replace(sample_at(offset), payload=payload)
        store.append("fashion", "pi-a", [(offset, Pack("fashion", (sample,), {}))])
    retain = ["archive", "retain", str(topology_file)]
    assert cli.main([*retain, "--dry-run"]) == 0
    told = "fashion/pi-a: 2 samples (1.2 MB) would be forgotten by size, all before offset 2\n"
    assert capsys.readouterr().out == told

    assert cli.main([*retain, "--json"]) == 0
    [shown] = json.loads(capsys.readouterr().out)["sources"]
    assert (shown["source"], shown["why"], shown["first"], shown["samples"]) == ("pi-a", "size", 2, 2)
    assert cli.main([*retain, "--dry-run", "--grace", "0s"]) == 0
    assert capsys.readouterr().out == "fashion/pi-a: 2 forgotten files would be deleted\n"
    assert cli.main(["archive", "ls", str(topology_file)]) == 0
    assert "fashion/pi-a: forgotten before offset 2; 1.2 MB of it not deleted yet" in capsys.readouterr().out
    assert cli.main([*retain, "--grace", "0s"]) == 0
    assert capsys.readouterr().out == "fashion/pi-a: 2 forgotten files deleted\n"
    assert list(open_archive(tmp_path / "archive").verify()) == []
    assert open_archive(tmp_path / "archive").snapshot("fashion").offset.tolist() == [2]


def test_retain_tells_that_a_limit_is_less_than_the_newest_files(topology_file, tmp_path, capsys):
    text = topology_file.read_text()
    topology_file.write_text(text.replace("url:", "retention: {size: 1MiB}, url:"))
    store = new_archive(tmp_path / "archive")
    for name in ("pi-a", "pi-b"):
        store.append("fashion", name, [(0, Pack("fashion", (replace(sample_at(0), payload=os.urandom(1 << 20)),)))])
    capsys.readouterr()

    assert cli.main(["archive", "retain", str(topology_file)]) == 1

    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("fashion: 1.0 MiB beyond its limit are kept: each source's newest file stays")
    assert second == "nothing to forget and nothing to delete"


def test_retain_tells_what_it_cannot_look_after(topology_file, tmp_path, capsys):
    store = new_archive(tmp_path / "archive")
    store.append("fashion", "pi-a", [(0, pack(0))])
    [floor] = (tmp_path / "archive" / "fashion" / "pi-a" / "floor").iterdir()
    floor.write_bytes(b"{}")
    assert cli.main(["archive", "retain", str(topology_file)]) == 1
    assert capsys.readouterr().out.startswith("fashion/pi-a: not looked after: ")


def test_ls_of_an_empty_archive_says_so(topology_file, tmp_path, capsys):
    new_archive(tmp_path / "archive")
    assert cli.main(["archive", "ls", str(topology_file)]) == 0
    assert capsys.readouterr().out == "the archive is empty\n"


@pytest.mark.parametrize("action", ["ls", "verify"])
def test_an_archive_that_is_not_there_is_an_error_and_is_not_made(topology_file, tmp_path, capsys, action):
    assert cli.main(["archive", action, str(topology_file)]) == 74
    assert capsys.readouterr().err.startswith(f"edged archive: the archive's folder {tmp_path}/archive is not there")
    assert not (tmp_path / "archive").exists()


def test_init_makes_the_archive_and_leaves_one_that_is_there(topology_file, tmp_path, capsys):
    assert cli.main(["archive", "init", str(topology_file)]) == 0
    assert capsys.readouterr().out == f"file://{tmp_path}/archive is an archive now\n"
    assert cli.main(["archive", "init", str(topology_file)]) == 0
    assert capsys.readouterr().out == f"file://{tmp_path}/archive is an archive already\n"
    assert cli.main(["archive", "ls", str(topology_file)]) == 0


def test_what_needs_no_kafka_needs_no_credentials_of_it(topology_file, monkeypatch, capsys):
    for name in ("CREDENTIALS_DIRECTORY", "BROKER_UNSET"):
        monkeypatch.delenv(name, raising=False)
    secured = topology_file.read_text().replace(
        'kafka: {bootstrap: ["localhost:9092"]}',
        'kafka: {bootstrap: ["${BROKER_UNSET}:9093"], security: {protocol: SASL_SSL, mechanism: PLAIN, '
        'username: vault, password: "${cred:kafka-password}", ca: /nowhere.pem}}',
    )
    topology_file.write_text(secured)

    for words in (["init"], ["import", "--from", "fashion-mnist-small", "--limit", "3"], ["ls"], ["verify"]):
        assert cli.main(["archive", *words, str(topology_file)]) == 0
    capsys.readouterr()

    assert cli.main(["archive", "migrate", str(topology_file)]) == 78
    assert 'no credential "kafka-password"' in capsys.readouterr().err


def test_verify_is_silent_about_a_sound_archive_and_fails_for_a_damaged_one(topology_file, store, tmp_path, capsys):
    assert cli.main(["archive", "verify", str(topology_file)]) == 0
    assert capsys.readouterr().out.endswith("all is well: 2 files read\n")
    path = next((tmp_path / "archive" / "fashion" / "_train.shoebox").glob("0*/*.parquet"))
    content = path.read_bytes()
    path.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])

    assert cli.main(["archive", "verify", str(topology_file)]) == 1
    finding, *_, count = capsys.readouterr().out.splitlines()
    assert finding.startswith(f"corrupt: {path}: ")
    assert finding.count(str(path)) == 1
    assert count == "1 finding: 2 files read"
    assert cli.main(["archive", "verify", str(topology_file), "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert [finding["path"] for finding in shown["findings"]] == [str(path)]
    assert shown["files"] == {"read": 2, "not_read": 0}


def test_a_user_without_a_name_takes_samples_out_by_a_number(topology_file, store, capsys, monkeypatch):
    """As in a container, or once the node's user is deleted."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", dict[int, str]().__getitem__)
    assert quarantine(topology_file, "quarantine", "fashion/_train.shoebox/1/7") == 0
    capsys.readouterr()
    assert cli.main(["archive", "ls", str(topology_file), "--json"]) == 0
    [entry] = json.loads(capsys.readouterr().out)["quarantine"]
    assert entry["by"].startswith(f"{os.geteuid()}@")


def quarantine(topology_file: Path, action: str, *addresses: str) -> int:
    return cli.main(["archive", action, str(topology_file), *addresses])


def test_samples_are_taken_out_of_training_and_brought_back_by_their_addresses(topology_file, store, capsys):
    capsys.readouterr()
    row, block = "fashion/_train.shoebox/1/7", "fashion/_train.shoebox/2"
    assert quarantine(topology_file, "quarantine", row, block, row) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{row}: 1 sample out of training from the next epoch on",
        f"{block}: 256 samples out of training from the next epoch on",
    ]
    assert store.snapshot("fashion").usable_rows.sum() == 1300 - 257

    assert quarantine(topology_file, "quarantine", f"{block}/9", row, "fashion/_train.shoebox/1/8") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{block}/9: in quarantine already",
        f"{row}: in quarantine already",
        "fashion/_train.shoebox/1/8: 1 sample out of training from the next epoch on",
    ]
    assert store.ends("fashion")["_quarantine"] == 2

    assert quarantine(topology_file, "release", f"{block}/0", row) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{block}/0: 1 sample back in training from the next epoch on",
        f"{row}: 1 sample back in training from the next epoch on",
    ]
    assert quarantine(topology_file, "release", block) == 0
    assert capsys.readouterr().out == f"{block}: 255 samples back in training from the next epoch on\n"
    assert store.snapshot("fashion").quarantined.shape == (1, 3)


def test_a_sample_is_also_named_by_what_its_device_published(topology_file, tmp_path, capsys):
    store = new_archive(tmp_path / "archive")
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])
    assert quarantine(topology_file, "quarantine", "fashion/@cam-01/0/6") == 0
    assert capsys.readouterr().out.startswith("fashion/pi-a/1/2: 1 sample out of training")
    store.append("fashion", "pi-b", [(0, pack(6))])
    assert quarantine(topology_file, "release", "fashion/@cam-01/0/6") == 64
    assert "2 times; name one: fashion/pi-a/1/2, fashion/pi-b/0/0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("fashion/_train.shoebox/4", "does not hold fashion/_train.shoebox/4"),
        ("fashion/_train.shoebox/3/232", "does not hold fashion/_train.shoebox/3/232"),
        ("fashion/pi-z/0", "does not hold fashion/pi-z/0"),
        ("fashion/_quarantine/0", "does not hold fashion/_quarantine/0"),
        ("fashion/@cam-01/0/7", "does not hold fashion/@cam-01/0/7"),
        ("birds/pi-a/0", "no stream of the topology, which has fashion"),
        ("nonsense", "STREAM/SOURCE/OFFSET"),
    ],
)
def test_an_address_that_names_nothing_changes_nothing(topology_file, store, capsys, address, message):
    assert quarantine(topology_file, "quarantine", "fashion/_train.shoebox/0", address) == 64
    assert message in capsys.readouterr().err
    assert "_quarantine" not in store.ends("fashion")


def test_ls_and_verify_show_what_is_in_quarantine_and_who_said_so(topology_file, store, capsys):
    quarantine(topology_file, "quarantine", "fashion/_train.shoebox/1/7", "fashion/_train.shoebox/2")
    capsys.readouterr()

    for action in ("ls", "verify"):
        assert cli.main(["archive", action, str(topology_file)]) == 0
        out = capsys.readouterr().out
        assert "in quarantine: fashion/_train.shoebox/1/7 (1 sample), by " in out
        assert "in quarantine: fashion/_train.shoebox/2 (256 samples), by " in out
        lines = [line.split() for line in out.splitlines() if line.startswith("fashion ")]
        assert {source: quarantined for _, source, _, _, _, quarantined, *_ in lines} == {
            "_test.shoebox": "0",
            "_train.shoebox": "257",
        }
        assert cli.main(["archive", action, str(topology_file), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert {each["source"]: each["in_quarantine"] for each in report["sources"]} == {
            "_test.shoebox": 0,
            "_train.shoebox": 257,
        }
        shown = report["quarantine"]
        assert [(each["address"], each["samples"]) for each in shown] == [
            ("fashion/_train.shoebox/1/7", 1),
            ("fashion/_train.shoebox/2", 256),
        ]
        assert all("@" in each["by"] and each["since"].endswith("+00:00") for each in shown)


def test_a_block_that_its_source_waits_at_is_passed_by_its_address(topology_file, store, capsys):
    """It is not archived yet, so that whether it is held up there the command cannot know."""
    store.append("fashion", "pi-a", [(0, pack(0))])
    address = "fashion/pi-a/1"
    assert quarantine(topology_file, "quarantine", address) == 0
    assert quarantine(topology_file, "quarantine", address) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2].startswith(f"{address}: not archived yet; the archive node passes it should it be held up by it")
    assert told[-1] == f"{address}: in quarantine already"
    assert cli.main(["archive", "ls", str(topology_file)]) == 0
    assert f"in quarantine: {address} (not archived yet), by " in capsys.readouterr().out

    assert quarantine(topology_file, "release", address) == 0
    assert "not archived yet; the archive node waits" in capsys.readouterr().out
    for nobodys in (f"{address}/0", "fashion/pi-zero/1", "fashion/_train.shoebox/99"):
        assert quarantine(topology_file, "quarantine", nobodys) == 64


def test_verify_names_what_the_border_refuses_until_it_is_in_quarantine(topology_file, store, capsys):
    bad = [replace(sample_at(row), payload=b"1234" if row % 2 else b"123") for row in range(4)]
    store.append("fashion", "pi-a", [(0, Pack("fashion", tuple(bad)))])
    capsys.readouterr()

    assert cli.main(["archive", "verify", str(topology_file)]) == 1
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("refused: ")]
    assert [line.rpartition(".parquet: ")[2] for line in found] == [
        f"fashion/pi-a/0/{row}: wrong_length: 3 bytes; a sample has 4" for row in (0, 2)
    ]
    quarantine(topology_file, "quarantine", "fashion/pi-a/0/0", "fashion/pi-a/0/2")
    assert cli.main(["archive", "verify", str(topology_file)]) == 0
    assert capsys.readouterr().out.endswith("all is well: 4 files read\n")


def test_verify_finds_a_damaged_record_of_the_quarantine(topology_file, tmp_path, capsys):
    store = new_archive(tmp_path / "archive")
    store.append("fashion", "pi-a", [(0, pack(0))])
    store.append("fashion", "_quarantine", [(0, pack(0))])
    assert cli.main(["archive", "verify", str(topology_file)]) == 1
    assert "not a record of the quarantine" in capsys.readouterr().out


def test_the_small_fashion_mnist_is_imported_from_end_to_end(topology_file, tmp_path, capsys):
    assert cli.main(["archive", "import", str(topology_file), "--from", "fashion-mnist-small"]) == 0

    store = open_archive(tmp_path / "archive")
    assert list(store.verify()) == []
    assert store.snapshot("fashion").sources == ("_test.fashion-mnist-small", "_train.fashion-mnist-small")
    assert store.snapshot("fashion").num_samples > 1000


def test_a_data_set_that_does_not_exist_is_a_plain_message(topology_file, capsys):
    assert cli.main(["archive", "import", str(topology_file), "--from", "/nowhere/at/all"]) != 0
    assert "/nowhere/at/all" in capsys.readouterr().err


def test_root_makes_no_files_in_the_archive_of_a_node_with_a_user_of_its_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "archive").mkdir()
    file = tmp_path / "topology.yaml"
    file.write_text(VALID.replace("/srv/edged", str(tmp_path / "archive")))
    owner = pwd.struct_passwd(("edged", "x", (tmp_path / "archive").stat().st_uid, 0, "", "/", "/bin/sh"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("pwd.getpwnam", lambda _name: owner)

    assert cli.main(["archive", "init", str(file)]) == 74

    assert capsys.readouterr().err.endswith(" makes there: runuser -u edged -- edged archive init …\n")
    assert not list((tmp_path / "archive").iterdir())
    monkeypatch.undo()
    assert cli.main(["archive", "init", str(file)]) == 0
    monkeypatch.setattr("pwd.getpwnam", lambda _name: owner)
    assert cli.main(["archive", "ls", str(file)]) == 0


def test_migrate_says_as_json_what_it_did(topology_file, store, tmp_path, capsys):
    capsys.readouterr()

    assert cli.main(["archive", "migrate", str(topology_file), "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == {"sources": []}
