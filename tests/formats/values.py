"""What the kept files hold: each format's own value, and how the present version writes it.

`python -m tests.formats.values` writes the files that are missing, and never one that is there: what a version has
written stays as it was. A new version of a format gets a new file; that of the one before stays beside it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.adapters.disk.sample_buffer import SampleBuffer
from edged.adapters.disk.sqlite_cache import MIN_BUDGET_BYTES, SqliteCache
from edged.domain import place, presence
from edged.domain.archive import floor, index_codec, protocol, quarantine
from edged.domain.archive.floor import Floor
from edged.domain.archive.layout import SEGMENT
from edged.domain.archive.quarantine import QuarantineRecord
from edged.domain.archive.segment_index import IndexedFile, Replaced, index_of
from edged.domain.archive.snapshot import BlockRef, Snapshot
from edged.domain.archive.source_log import SourceLog
from edged.domain.cache.entry import Entry
from edged.domain.device.sample import Draft
from edged.domain.device.segments import Bounds
from edged.domain.epochs import sampler_state
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.importance import Gate
from edged.domain.epochs.sampler_state import SamplerState
from edged.domain.epochs.scores import ScoreTable
from edged.domain.group import records
from edged.domain.group.records import Begin, Close, Join, Leave, Part, Record, Tested, Update
from edged.domain.nn.model import Division
from edged.domain.place import Place
from edged.domain.presence import Beat, Process, Run
from edged.domain.samples import pack, prediction
from edged.domain.samples.pack import Pack
from edged.domain.samples.prediction import Prediction
from edged.domain.samples.sample import Address, Sample
from edged.domain.samples.times import SAMPLED_HEADER
from edged.domain.training import checkpoint
from edged.domain.training.state import EpochMetrics, Position, Tally, TrainState
from edged.ports import DeployedModel
from tests.support.archive_samples import open_archive

FOLDER = Path(__file__).parent
HEX = "0123456789abcdef" * 4
SCORE_BYTES = 1 << 16

SAMPLES = tuple(
    Sample("cam-01", 0, 7 + row, 1000 + row, label, "raw", bytes([row] * 4), sampled_ms, "its-log")
    for row, (label, sampled_ms) in enumerate([("boot", 990), (None, None), ("größe", 992)])
)
PACK = Pack("fashion", SAMPLES, {"cam-01/0": Place(10, "its-log", "topic-id", "9:00ff")})
RECORD = QuarantineRecord("quarantine", BlockRef("pi-a", 1), 2, "root@vault", 5000)
BEAT = Beat(
    Run("run-1", "garden", "/var/lib/edged/pi-a", Process("boot-1", "pid:[1]", 7, 99, "lock-1"), 5.0), 4, 2, 990
)
SOURCE_LOG = SourceLog("name-1", 0, Place(2, "life-1", "topic-1", "1:ab"))


def snapshot() -> Snapshot:
    source, offset, rows, num_bytes = np.array([[0, 0, 1], [0, 1, 4], [256, 3, 16], [1024, 12, 64]], np.int64)
    out = np.array([[1, 0, 2]], np.int64)
    return Snapshot(("_train.small", "pi-a"), source, offset, rows, num_bytes, {"_train.small": 2, "pi-a": 5}, out)


def sampler() -> SamplerState:
    scores = ScoreTable(snapshot(), SCORE_BYTES)
    scores.update(np.arange(4), np.linspace(0.1, 1, 4, dtype=np.float32))
    start = EpochStart(np.arange(0, 64, 2), cursor=3, hit_share=0.5, is_gate_open=True, capacity_bytes=6400)
    return SamplerState(3, snapshot(), start, scores, Gate(1.25))


def train_state() -> TrainState:
    params = {"dense.kernel": np.arange(4, dtype=np.float32).reshape(2, 2)}
    return TrainState(
        params=params,
        slots={"velocity": {"dense.kernel": np.ones((2, 2), np.float32)}},
        job=HEX,
        division=Division(2, 16, "compiled/1"),
        position=Position(3, 640, 1234, 17, 5, "its-log"),
        tally=Tally(640, 500, 0.5, 3.25, 0.5, 0.125),
        ends={"pi-a": 7},
        plan=HEX,
        history=(EpochMetrics(0, 400, 0.7, 0.6, None, None),),
        learnt=b"scores",
        exchange="",
    )


SNAPSHOT_REQUEST = protocol.SnapshotRequest("r-1", "pi-a", "fashion", {"pi-a": 5})
SAMPLES_REQUEST = protocol.SamplesRequest(
    "r-2", "pi-a", "fashion", (BlockRef("pi-a", 4),), (np.array([1, 3], np.uint16),)
)


def samples_part() -> protocol.SamplesPart:
    position, missing = np.array([0], np.int64), np.array([1], np.int64)
    return protocol.SamplesPart("r-2", 0, True, position, ("boot",), ("raw",), (b"abcd",), missing)


def group_log(number: int) -> list[Record]:
    """A short log of the group in this format: one of each kind."""
    ends = {"_floor.pi-a": 3, "pi-a": 7} if number >= 4 else {"pi-a": 7}
    begin = Begin(0, {"pi-a": 0.5, "pi-b": 0.5}, ends, 1, HEX, "pi-a", number, "compiled/1" if number >= 3 else "numpy")
    return [
        Join("pi-a", HEX, 0, HEX),
        Join("pi-b", HEX, 0, HEX),
        begin,
        Part("pi-a", 0, "0badcafe", 0, 1, 16, 2.5, 7, 100.0, np.ones(4, np.float32).tobytes()),
        Close(0, "pi-b"),
        Tested("pi-a", 0, 10, 5, 2.5, HEX),
        Leave("pi-b"),
        Update(0, 0, 1, (records.Contribution("pi-a", 16, 2.5, 7),), 5, "{}", b"chunk"),
    ]


def group_blobs(number: int) -> list[bytes]:
    oldest = (Join, Leave)
    return [records.encode(each, 1 if isinstance(each, oldest) else number) for each in group_log(number)]


PREDICTION = Prediction("cam-01", 0, 7, 1000, 990, "a", 0.75, {"a": 0.75, "b": 0.25}, 3, 1.5, 0.5, None, None, "life")
MODEL = DeployedModel(7, b"seven", ("a", "größe"), (2, 2, 1), 0.125)
ENTRIES = {Address("pi-a", 4, 3): Entry(b"abcd" * 50, "raw", "boot"), Address("pi-a", 4, 5): Entry(b"x", "jpeg", None)}
COMMITTED = Place(10, "its-log", "topic-id", "9:00ff")


def write_archive(path: Path) -> None:
    store = open_archive(path)
    store.create("greenhouse")
    store.append("fashion", "pi-a", [(0, PACK), (1, PACK)], log=SOURCE_LOG)
    store.append("fashion", "pi-a", [(SEGMENT, PACK)], [(2, SEGMENT)], log=SOURCE_LOG)
    store.append("fashion", "pi-a", [(SEGMENT + 1, PACK)], log=SOURCE_LOG)
    store.append("fashion", "_quarantine", [(0, quarantine.to_pack("fashion", [RECORD]))])


FLOOR = Floor(0).raised(40, 1_000).raised(65_536, 2_000)
_OFFSETS = np.array([131_072, 131_075])
INDEX = replace(
    index_of(
        2,
        [
            IndexedFile(0, 131_072, 131_072, 131_080, 999, "a-log", 7, 3, 5, False, _OFFSETS, _OFFSETS % 256, _OFFSETS),
            IndexedFile(2, 131_080, 131_080, 262_150, 0, "", 0, 0, 6, True, *[np.zeros(0, np.int64)] * 3),
        ],
    ),
    replaced=(Replaced("00000000000000131080.parquet", 9),),
)


def write_index(path: Path) -> None:
    """In a folder: what compresses it may do so otherwise."""
    path.mkdir()
    (path / "index").write_bytes(index_codec.encode(INDEX))


def write_model(path: Path) -> None:
    CheckpointDir(path).deploy(MODEL)
    (path / "model.tflite").unlink()


BUFFER_OWNER = {"site": "greenhouse", "device": "cam-01"}
DRAFTS = (Draft(b"boot", b"\xff\xd8", 990), Draft(None, b"\x00", 991))


def write_cache(path: Path) -> None:
    cache = SqliteCache(path, MIN_BUDGET_BYTES, "fashion")
    cache.put_many(ENTRIES)
    cache.close()


def write_log(number: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.mkdir()
        for offset, blob in enumerate(group_blobs(number)):
            (path / f"{offset}.safetensors").write_bytes(blob)

    return write


def _bytes(content: Callable[[], bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content())

    return write


BOOT = "0fd7a8c6-3f5c-4d62-9a35-5e9e8a1f0c11"
"""Of the machine that writes buffers."""


def write_buffer(path: Path) -> None:
    """A buffer of two samples, the first of which has its receipt."""
    buffer = SampleBuffer(path, BUFFER_OWNER, Bounds(), now_ms=lambda: 1000, steady_s=lambda: 1.0, boot=lambda: BOOT)
    buffer.append(DRAFTS)
    buffer.received(buffer.read(1, 1000)[0].position)
    buffer.close()


def write_cursor(path: Path) -> None:
    """Its cursor alone."""
    write_buffer(path)
    for file in path.glob("*.samples"):
        file.unlink()


WRITERS: Mapping[str, Callable[[Path], None]] = {
    "pack-2": _bytes(lambda: pack.encode(PACK)),
    "archive-3": write_archive,
    "archive_index-1": write_index,
    "archive_floor-1": _bytes(lambda: floor.encode(FLOOR)),
    "prediction": _bytes(lambda: prediction.encode(PREDICTION)),
    "devices-record": _bytes(
        lambda: json.dumps({"key": "boot", "headers": {SAMPLED_HEADER: "990"}, "hex": "ffd8"}).encode()
    ),
    "snapshot_request-1": _bytes(lambda: protocol.encode_request(SNAPSHOT_REQUEST)),
    "samples_request-1": _bytes(lambda: protocol.encode_request(SAMPLES_REQUEST)),
    "snapshot_part-2": _bytes(lambda: protocol.encode_part(protocol.SnapshotPart("r-1", 0, True, snapshot()))),
    "samples_part-1": _bytes(lambda: protocol.encode_part(samples_part())),
    "quarantine-1": _bytes(lambda: quarantine.to_pack("fashion", [RECORD]).samples[0].payload),
    "address-of-a-sample": _bytes(lambda: b"fashion/pi-a/120/7\nfashion/pi-a/120\nfashion/@cam-01/0/4711\n"),
    "exchange-1": write_log(1),
    "exchange-2": write_log(2),
    "exchange-3": write_log(3),
    "exchange-4": write_log(4),
    "presence-1": _bytes(lambda: presence.encode(BEAT)),
    "checkpoint-7": _bytes(lambda: checkpoint.encode(train_state())),
    "committed-place": _bytes(lambda: place.to_text(COMMITTED, "a note").encode()),
    "epoch_memo-3": _bytes(lambda: sampler_state.encode(sampler())),
    "model-1": write_model,
    "cache-file": write_cache,
    "device_samples-1": write_buffer,
    "device_cursor-2": write_cursor,
}


def write_missing() -> None:
    """Write the files that are not there yet."""
    for name, write in WRITERS.items():
        if not (FOLDER / name).exists():
            write(FOLDER / name)


if __name__ == "__main__":
    write_missing()
