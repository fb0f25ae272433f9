"""Files of every format that was ever written, kept as they were, are read from now on, or refused in words and kept.

A format that changes gets a new name in `edged/formats.md`, and with it a file here (see `values`). The file of the
version before stays, and so does what a reader answers to it.
"""

import ast
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import edged
from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.adapters.disk.sample_buffer import SampleBuffer
from edged.adapters.disk.sqlite_cache import MIN_BUDGET_BYTES, SqliteCache
from edged.adapters.local import local_store
from edged.adapters.parquet.migrate import migrate
from edged.domain import place, presence
from edged.domain.archive import floor, index_codec, protocol, quarantine
from edged.domain.archive.layout import SEGMENT
from edged.domain.archive.protocol import SamplesPart, SamplesRequest, SnapshotPart
from edged.domain.archive.snapshot import BlockRef
from edged.domain.device.segments import Bounds
from edged.domain.epochs import modes, sampler_state
from edged.domain.epochs.plan import PlanSettings
from edged.domain.group import gradient_log, records, state_json
from edged.domain.group.state import Rules, State
from edged.domain.place import Place
from edged.domain.samples import address, pack, prediction, times
from edged.domain.samples.address import ArchivedAddress, DeviceAddress
from edged.domain.training import checkpoint
from edged.errors import AnotherVersion, StorageError
from tests.formats import values
from tests.formats.values import FOLDER, HEX
from tests.support.archive_samples import PATIENT_S, open_archive

PAGE = Path(edged.__file__).parent / "formats.md"
NOT_KEPT = {"README.md", "values.py", Path(__file__).name, "__pycache__"}


def names_on_the_page() -> list[str]:
    """One for each format in the table of versions: its version's, or the row's where versions have none."""
    text = PAGE.read_text().partition("## Versions")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| ")][1:]
    names: list[str] = []
    for title, version in rows:
        tokens = re.findall(r"`([a-z_]+)/(\d+)`", version)
        names += [f"{name}-{number}" for name, number in tokens] or [
            title.strip().lower().replace("'", "").replace(" ", "-")
        ]
    return sorted(set(names))


def versions_in_the_program() -> set[str]:
    """Every literal of the program that names a format's version."""
    trees = [ast.parse(file.read_text()) for file in Path(edged.__file__).parent.rglob("*.py")]
    literals = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {each for each in literals if isinstance(each, str) and re.fullmatch(r"[a-z_]+/\d+", each)}


def test_every_format_on_the_page_has_a_kept_file_and_a_reader():
    kept = {path.name for path in FOLDER.iterdir()} - NOT_KEPT
    assert set(names_on_the_page()) <= kept
    assert kept == READERS.keys()


def test_every_version_that_the_program_knows_has_a_kept_file():
    assert {each.replace("/", "-") for each in versions_in_the_program()} <= READERS.keys()


@pytest.mark.parametrize("name", [name for name in values.WRITERS if (FOLDER / name).is_file()])
def test_the_present_version_writes_the_same_bytes(name, tmp_path):
    """Of those that are one file: in the others are times, or what a library decides."""
    values.WRITERS[name](tmp_path / name)
    assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


def refused(decode: Callable[[bytes], object]) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        with pytest.raises(AnotherVersion, match="another version of edged"):
            decode(path.read_bytes())

    return read


def read_pack_1(path: Path) -> None:
    """An edge goes on behind it, see `services.ingest.uplink`; an archive node waits at it."""
    refused(pack.decode)(path)
    assert pack.cursors_of_former(path.read_bytes()) == ("fashion", {"cam-01/0": Place(8)})


def read_pack_2(path: Path) -> None:
    assert pack.decode(path.read_bytes()) == values.PACK


def read_archive_1(path: Path) -> None:
    store = open_archive(path)
    with pytest.raises(StorageError, match="run `edged archive migrate`"):
        store.ends("fashion")
    assert list(migrate(local_store(f"file://{path}", "tests", PATIENT_S)))
    assert store.ends("fashion") == {"_train.small": 1, "pi-a": 6}
    assert list(store.verify()) == []


def read_archive_2(path: Path) -> None:
    store = open_archive(path)
    with pytest.raises(StorageError, match="run `edged archive migrate`"):
        store.ends("fashion")
    assert list(migrate(local_store(f"file://{path}", "tests", PATIENT_S)))
    read_archive(path, [0, 1])


def read_archive_3(path: Path) -> None:
    read_archive(path, [0, 1, SEGMENT, SEGMENT + 1])


def read_archive(path: Path, offsets: Sequence[int]) -> None:
    store = open_archive(path)
    found = [each for _, each in store.read("fashion", [BlockRef("pi-a", offset) for offset in offsets])]
    assert found == [values.PACK] * len(offsets)
    assert store.snapshot("fashion").offset.tolist() == offsets
    assert store.quarantine_records("fashion") == [values.RECORD]
    assert store.end("fashion", "pi-a").log == values.SOURCE_LOG
    assert store.snapshot("fashion").quarantined.tolist() == [[1, 2, 3]]
    assert list(store.verify()) == []


def read_index(path: Path) -> None:
    found = index_codec.decode((path / "index").read_bytes(), 2)
    assert found.replaced == values.INDEX.replaced
    assert [each[:10] for each in found.files()] == [each[:10] for each in values.INDEX.files()]
    for one, other in zip(found.files(), values.INDEX.files(), strict=True):
        for column, known in zip(one[10:], other[10:], strict=True):
            np.testing.assert_array_equal(column, known)


def read_floor(path: Path) -> None:
    assert floor.decode(path.read_bytes()) == values.FLOOR


def read_prediction(path: Path) -> None:
    assert prediction.decode(path.read_bytes()) == values.PREDICTION


def read_device_record(path: Path) -> None:
    record = json.loads(path.read_bytes())
    assert times.sampled_ms([(name, value.encode()) for name, value in record["headers"].items()]) == 990


def read_snapshot_request(path: Path) -> None:
    assert protocol.decode_request(path.read_bytes()) == values.SNAPSHOT_REQUEST


def read_samples_request(path: Path) -> None:
    request = protocol.decode_request(path.read_bytes())
    assert isinstance(request, SamplesRequest)
    assert (request.refs, [each.tolist() for each in request.rows]) == ((BlockRef("pi-a", 4),), [[1, 3]])


def read_snapshot_part(path: Path) -> None:
    part = protocol.decode_part(path.read_bytes())
    assert isinstance(part, SnapshotPart)
    expected = values.snapshot()
    assert (part.snapshot.sources, part.snapshot.ends) == (expected.sources, expected.ends)
    for name in ("source", "offset", "rows", "num_bytes", "quarantined"):
        assert getattr(part.snapshot, name).tolist() == getattr(expected, name).tolist()


def read_samples_part(path: Path) -> None:
    part = protocol.decode_part(path.read_bytes())
    assert isinstance(part, SamplesPart)
    assert (part.labels, part.codecs, part.payloads) == (("boot",), ("raw",), (b"abcd",))
    assert (part.position.tolist(), part.missing.tolist()) == ([0], [1])


def read_quarantine(path: Path) -> None:
    block = quarantine.to_pack("fashion", [values.RECORD])
    as_kept = replace(block, samples=(replace(block.samples[0], payload=path.read_bytes()),))
    assert quarantine.from_pack(as_kept) == [values.RECORD]


def read_beat(path: Path) -> None:
    assert presence.decode(path.read_bytes()) == values.BEAT


def read_addresses(path: Path) -> None:
    assert [address.parse(line) for line in path.read_text().splitlines()] == [
        ArchivedAddress("fashion", "pi-a", 120, 7),
        ArchivedAddress("fashion", "pi-a", 120),
        DeviceAddress("fashion", "cam-01", 0, 4711),
    ]


def read_group_log(number: int) -> Callable[[Path], None]:
    def decode(chunk: bytes) -> npt.NDArray[np.float32]:
        return np.frombuffer(chunk, np.float32)

    def read(path: Path) -> None:
        blobs = [(path / f"{offset}.safetensors").read_bytes() for offset in range(8)]
        assert [records.decode(blob) for blob in blobs] == values.group_log(number)
        assert blobs == values.group_blobs(number)
        state, rules = State(), Rules(frozenset({"pi-a", "pi-b"}), HEX, 4, decode)
        for offset, blob in enumerate(blobs[:7]):
            state, _ = gradient_log.fold_blob(gradient_log.fold, rules, state, blob, offset)
        assert (state.step, state.end_step, list(state.tested)) == (1, 1, ["pi-a"])
        assert state.begin is not None
        assert state.begin.format == number
        assert state_json.from_json(state_json.to_json(state)) == state

    return read


def read_checkpoint(backend: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        expected = values.train_state()
        expected.division = replace(expected.division, backend=backend)
        assert checkpoint.encode(checkpoint.decode(path.read_bytes(), job=HEX)) == checkpoint.encode(expected)

    return read


def read_place(path: Path) -> None:
    assert place.from_text(10, path.read_text()) == (values.COMMITTED, "a note")
    for unknown in ("", '["a"]', '["", "", "", "", "", ""]', '{"v": 2}', "not JSON"):
        assert place.from_text(10, unknown) == (Place(10), "")


def read_sampler_state(path: Path) -> None:
    """From the kept state follows the plan that it followed then, by its digest."""
    state = sampler_state.decode(path.read_bytes(), score_bytes=values.SCORE_BYTES)
    settings = PlanSettings(seed=7, test_fraction=0.1, window_bytes=4000, capacity_bytes=6400)
    plan = modes.plan("stratified", settings, state.snapshot, state.epoch, state.start, state.scores)
    assert plan.digest[:16] == PLAN


PLAN = "a5962ffbe9e0e5c8"


def read_model(path: Path) -> None:
    assert CheckpointDir(path, writes=False).newest_model() == values.MODEL
    description = path / "model-000000000007.json"
    fields = json.loads(description.read_text())
    assert fields.pop("edged") == "model/1"
    description.write_text(json.dumps(fields))  # as before descriptions had one
    assert CheckpointDir(path, writes=False).newest_model() == values.MODEL
    description.write_text(json.dumps(fields | {"edged": "model/2"}))
    assert CheckpointDir(path, writes=False).newest_model() is None


def read_cache(path: Path) -> None:
    cache = SqliteCache(path, MIN_BUDGET_BYTES, "fashion")
    assert cache.get_many(values.ENTRIES) == values.ENTRIES
    cache.close()


def read_buffer(path: Path) -> None:
    buffer = SampleBuffer(path, values.BUFFER_OWNER, Bounds())
    (left,) = buffer.read(9, 1000)
    assert (left.id, left.sample.label, left.sample.payload, left.sample.sampled_ms) == (
        f"{BUFFER_SERIES}:2", *values.DRAFTS[1]
    )  # fmt: skip
    buffer.close()


def read_former_buffers_cursor(path: Path) -> None:
    """The former cursor does not name the boot in which it was written, so the numbers start again at 1."""
    buffer = SampleBuffer(path, values.BUFFER_OWNER, Bounds())
    (sample_id,) = buffer.append(values.DRAFTS[:1])
    assert sample_id.endswith(":1")
    buffer.close()


def read_buffers_cursor(path: Path) -> None:
    """Numbers go on where they were."""
    buffer = SampleBuffer(path, values.BUFFER_OWNER, Bounds(), boot=lambda: values.BOOT)
    assert buffer.append(values.DRAFTS[:1]) == [f"{CURSOR_SERIES}:3"]
    buffer.close()


BUFFER_SERIES = next((FOLDER / "device_samples-1").glob("*.samples")).name.split("-")[1]
CURSOR_SERIES = json.loads((FOLDER / "device_cursor-2" / "cursor").read_text())["series"]

READERS: Mapping[str, Callable[[Path], None]] = {
    "pack-1": read_pack_1,
    "pack-2": read_pack_2,
    "archive-1": read_archive_1,
    "archive-2": read_archive_2,
    "archive-3": read_archive_3,
    "archive_index-1": read_index,
    "archive_floor-1": read_floor,
    "prediction": read_prediction,
    "devices-record": read_device_record,
    "snapshot_request-1": read_snapshot_request,
    "samples_request-1": read_samples_request,
    "snapshot_part-1": refused(protocol.decode_part),
    "snapshot_part-2": read_snapshot_part,
    "samples_part-1": read_samples_part,
    "quarantine-1": read_quarantine,
    "address-of-a-sample": read_addresses,
    "exchange-1": read_group_log(1),
    "exchange-2": read_group_log(2),
    "exchange-3": read_group_log(3),
    "exchange-4": read_group_log(4),
    "presence-1": read_beat,
    "checkpoint-5": refused(checkpoint.decode),
    "checkpoint-6": read_checkpoint("numpy"),
    "checkpoint-7": read_checkpoint("compiled/1"),
    "committed-place": read_place,
    "epoch_memo-2": refused(lambda blob: sampler_state.decode(blob, score_bytes=values.SCORE_BYTES)),
    "epoch_memo-3": read_sampler_state,
    "model-1": read_model,
    "cache-file": read_cache,
    "device_samples-1": read_buffer,
    "device_cursor-1": read_former_buffers_cursor,
    "device_cursor-2": read_buffers_cursor,
}


@pytest.mark.parametrize("name", READERS)
def test_a_kept_file_is_read_or_refused_as_it_always_was(name, tmp_path, log_lines):
    copy = tmp_path / name
    kept = FOLDER / name
    if kept.is_dir():
        shutil.copytree(kept, copy)
    else:
        shutil.copy(kept, copy)
    READERS[name](copy)
