# ruff: noqa: T201, S311 - a script that prints what it measured, in any order
"""What an archive node takes in and gives out: MB of payload a second and a CPU second, and where a block's time goes.

Run it from the repository: python -m tests.bench.archive [--stores file,hdfs,s3] [--edges 1,2,4] [--quick] [--json]

Blocks of 256 Fashion-MNIST images (784 bytes) and of three photographs (200 kB). By turns, medians: `in`, packs
decoded, sifted and appended, beside pyarrow writing the same rows; `out`, edges that ask for all blocks in their own
random order, all at once, each block's digest checked, beside pyarrow reading the same row groups and the client alone
reading the files' bytes, as many ranges at once. `spread`: the time until the slowest edge had all, over the fastest
one's. By place: CPU ms a block, before (an object for each sample) and after (by columns). Kafka's client is not
counted: the log is one in memory.
"""

import asyncio
import hashlib
import io
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edged.adapters.datasets.registry import open_dataset
from edged.adapters.hdfs import hdfs_store
from edged.adapters.local import local_store
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet import rows as parquet_rows
from edged.adapters.parquet.block_reader import READS_AT_ONCE
from edged.adapters.parquet.store import ParquetStore
from edged.adapters.s3 import s3_store
from edged.domain.archive import protocol
from edged.domain.archive.protocol import SamplesRequest
from edged.domain.archive.reply_builder import BlockRead, ReplyBuilder
from edged.domain.archive.snapshot import BlockRef
from edged.domain.place import Place
from edged.domain.samples import column_border
from edged.domain.samples import pack as packs
from edged.domain.samples.border import Border
from edged.domain.samples.columns import PackColumns
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample
from edged.domain.topology import HdfsAccess, Stream
from edged.ports import Message, ObjectStore
from edged.services.archive.epoch_server import EpochServer
from edged.threads import ThreadPool
from tests.bench.arguments import bench_parser, several
from tests.support import by_samples
from tests.support.hdfs import Hdfs
from tests.support.s3 import BUCKET, Versitygw

MB = 1e6
SOURCE = "pi-a"
FLUSH_BLOCKS = 100
COLUMNS = ["label", "codec", "payload"]


class Kind(NamedTuple):
    """A stream's samples: `payloads` and `labels`, of which `rows` make a block."""

    stream: Stream
    codec: str
    payloads: Sequence[bytes]
    labels: Sequence[str]
    rows: int

    def packs(self, number: int) -> list[tuple[int, Pack]]:
        n, rows = len(self.payloads), self.rows
        result = []
        for block in range(number):
            first, end = block * rows, (block + 1) * rows
            samples = tuple(self._sample(at % n, at) for at in range(first, end))
            result.append((block, Pack(self.stream.name, samples, {"cam-01/0": Place(end, "bench")})))
        return result

    def _sample(self, which: int, at: int) -> Sample:
        return Sample("cam-01", 0, at, 1000 + at, self.labels[which], self.codec, self.payloads[which], None, "bench")


def images() -> Kind:
    dataset = open_dataset("fashion-mnist-small")
    items = [dataset.sample("train", index) for index in range(dataset.count("train"))]
    stream = Stream("images", (28, 28, 1), "uint8", dataset.labels)
    return Kind(stream, "raw", [each.payload for each in items], [each.label or "" for each in items], 256)


def photographs() -> Kind:
    payloads = [b"\xff\xd8\xff" + random.Random(i).randbytes(200_000 - 3) for i in range(30)]
    return Kind(Stream("photographs", (300, 300, 3), "uint8", ("bird",)), "jpeg", payloads, ["bird"] * 30, 3)


class Figures(NamedTuple):
    mb_per_s: float
    mb_per_cpu_s: float


def measured(work: Callable[[], object], num_bytes: int) -> Figures:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return Figures(num_bytes / MB / wall_s, num_bytes / MB / cpu_s)


class Sink(MemoryLog):
    """Keeps no reply: counts them, and notes when each edge had all."""

    def __init__(self, edges: int) -> None:
        super().__init__()
        self.ended_s: list[float] = []
        self._edges = edges
        self.all_ended = asyncio.Event()

    async def append(self, messages: Sequence[Message], *, refuse_too_large: bool = False) -> list[int]:
        requests = [each for each in messages if each.topic == "requests"]
        for each in messages:
            if each.topic != "requests" and b'"last":"1"' in each.value[:4096]:
                self.ended_s.append(time.perf_counter())
        if len(self.ended_s) == self._edges:
            self.all_ended.set()
        return await super().append(requests, refuse_too_large=refuse_too_large) if requests else [0]


def serve(store: ParquetStore, kind: Kind, number: int, edges: int) -> float:
    """Serve edges that ask for all at once; the slowest one's time over the fastest one's."""
    names = [f"pi-{i}" for i in range(edges)]

    async def scenario() -> float:
        log = Sink(edges)
        server = EpochServer(
            log, store, RecordingHealth(), border=Border({kind.stream.name: kind.stream}, {}), edges=names,
            requests_topic="requests", epochs_topic="epochs.{}".format, group="bench", poll_s=0.1,
        )  # fmt: skip
        for i, name in enumerate(names):
            order = random.Random(i).sample(range(number), number)
            rows = tuple(np.arange(kind.rows, dtype=np.uint16) for _ in order)
            refs = tuple(BlockRef(SOURCE, offset) for offset in order)
            request = SamplesRequest("all", name, kind.stream.name, refs, rows)
            await log.append([Message("requests", protocol.encode_request(request))])
        began_s = time.perf_counter()
        serving = asyncio.create_task(server.run())
        done = asyncio.create_task(log.all_ended.wait())
        await asyncio.wait([serving, done], return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        await asyncio.wait([serving])
        assert server.statistics().served_samples == edges * number * kind.rows
        return (max(log.ended_s) - began_s) / (min(log.ended_s) - began_s)

    return asyncio.run(scenario())


class Object(NamedTuple):
    name: str
    size: int


@contextmanager
def server(store: str) -> Iterator[Callable[[str], ObjectStore]]:
    """A server of this kind; gives a place of its own for each name."""
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as folder:
        if store == "file":
            yield lambda name: local_store(f"file://{folder}/{name}", "bench")
        elif store == "hdfs":
            with Hdfs() as cluster:
                yield lambda name: hdfs_store(f"hdfs://{cluster.address}/{name}", HdfsAccess(), "bench", deadline_s=600)
        else:
            with Versitygw() as gateway:
                yield lambda name: s3_store(f"s3://{BUCKET}/{name}", gateway.access(), "bench", deadline_s=600)


def objects_of(objects: ObjectStore, kind: Kind) -> list[Object]:
    source = f"{kind.stream.name}/{SOURCE}"
    folders = [f"{source}/{each}" for each in objects.folders(source) if each.isdecimal()]
    found = [Object(f"{folder}/{each.name}", each.size) for folder in folders for each in objects.list(folder)]
    return [each for each in found if each.name.endswith(".parquet")]


def read_by_pyarrow(objects: ObjectStore, files: Sequence[Object]) -> None:
    for each in files:
        raw = io.BytesIO(objects.read(each.name, 0, each.size) or b"")
        with pq.ParquetFile(raw) as parquet:
            for group in range(parquet.metadata.num_row_groups):
                parquet.read_row_group(group, columns=COLUMNS, use_threads=False)


def read_bytes(objects: ObjectStore, files: Sequence[Object], size: int, threads: ThreadPool) -> None:
    """The client alone: ranges as large as a block, as many at once as the epoch server reads."""
    ranges = [(each.name, offset) for each in files for offset in range(0, each.size, size)]
    for content in threads.map(lambda wanted: objects.read(wanted[0], wanted[1], size), ranges):
        assert content


def write_by_pyarrow(table: pa.Table, rows: int, folder: Path) -> None:
    with (folder / "plain.parquet").open("wb") as file:
        pq.write_table(table, file, row_group_size=rows, compression="zstd", write_page_checksum=True)
        file.flush()
        os.fsync(file.fileno())


def append(encoded: Sequence[tuple[int, bytes]], store: ParquetStore, border: Border) -> None:
    """As the archiver does with the records of a source."""
    for start in range(0, len(encoded), FLUSH_BLOCKS):
        sifted = [
            (offset, border.sift(packs.decode(blob), SOURCE, {}).pack)
            for offset, blob in encoded[start : start + FLUSH_BLOCKS]
        ]
        store.append(sifted[0][1].stream, SOURCE, sifted)


def rates(kind: Kind, store: str, number: int, rounds: int, edges: Sequence[int]) -> dict[str, Any]:
    """The medians of each way in and out."""
    of_kind = kind.packs(number)
    num_bytes = sum(pack.num_bytes for _, pack in of_kind)
    encoded = [(offset, packs.encode(pack)) for offset, pack in of_kind]
    columns: dict[str, list[Any]] = {
        name: [getattr(each, name) for _, pack in of_kind for each in pack.samples] for name in COLUMNS
    }
    found: dict[str, list[Figures]] = {}
    spreads: dict[str, list[float]] = {}
    with ThreadPool(READS_AT_ONCE) as threads, server(store) as new, tempfile.TemporaryDirectory() as plain:
        for index in range(rounds + 1):
            for work, figures, spread in one_round(
                kind, new(f"round{index}"), encoded, pa.table(columns), Path(plain), edges, threads, num_bytes
            ):
                if index:  # the first round warms up
                    found.setdefault(work, []).append(figures)
                    spreads.setdefault(work, []).append(spread)
    return {
        work: {
            **Figures(*(median(column) for column in zip(*each, strict=True)))._asdict(),
            **({"spread": median(spreads[work])} if median(spreads[work]) else {}),
        }
        for work, each in found.items()
    }


def one_round(
    kind: Kind,
    objects: ObjectStore,
    encoded: Sequence[tuple[int, bytes]],
    table: pa.Table,
    plain: Path,
    edges: Sequence[int],
    threads: ThreadPool,
    num_bytes: int,
) -> Iterator[tuple[str, Figures, float]]:
    store, border = ParquetStore(objects, "bench", threads), Border({kind.stream.name: kind.stream}, {})
    store.create("bench")
    yield "in", measured(lambda: append(encoded, store, border), num_bytes), 0
    yield "in, pyarrow", measured(lambda: write_by_pyarrow(table, kind.rows, plain), num_bytes), 0
    files = objects_of(objects, kind)
    yield "out, pyarrow", measured(lambda: read_by_pyarrow(objects, files), num_bytes), 0
    size = sum(each.size for each in files)
    yield "out, client", measured(lambda: read_bytes(objects, files, size // len(encoded), threads), size), 0
    for asking in edges:
        spread: list[float] = []
        figures = measured(
            lambda asking=asking, spread=spread: spread.append(serve(store, kind, len(encoded), asking)),  # type: ignore[misc]
            asking * num_bytes,
        )
        yield f"out, {asking}", figures, spread[0]


def before(kind: Kind, raw: Any, footer: parquet_rows.Footer) -> Mapping[str, Callable[[int], object]]:
    """The places of a block that becomes a pack of samples, each given what the one before has made."""
    names = ["device", "device_partition", "device_offset", "arrived_ms", "label", "codec", "payload", "sampled_ms"]
    names.append("device_incarnation")
    dictionaries = ["label", "device", "device_incarnation", "codec"]
    parquet = pq.ParquetFile(
        raw, metadata=footer.metadata, pre_buffer=True, page_checksum_verification=True, read_dictionary=dictionaries
    )
    tables: dict[int, pa.Table] = {}
    made: dict[int, Pack] = {}

    def read(block: int) -> None:
        tables[block] = parquet.read_row_group(block, columns=names, use_threads=False)

    def objects(block: int) -> None:
        samples = map(Sample, *(tables[block].column(name).to_pylist() for name in names))
        made[block] = Pack(kind.stream.name, tuple(samples), footer.contents.cursors_of(block))

    def answer(block: int) -> None:
        ref = BlockRef(SOURCE, block)
        asked = SamplesRequest("r", "pi-0", kind.stream.name, (ref,), (np.arange(kind.rows, dtype=np.uint16),))
        by_samples.reply(asked, {ref: made[block]}, kind.stream)

    return {
        "read and decode": read,
        "objects": objects,
        "digest": lambda block: hashlib.sha256(by_samples.encoded(made[block])).hexdigest(),
        "border and answer": answer,
    }


def after(kind: Kind, raw: Any, footer: parquet_rows.Footer) -> Mapping[str, Callable[[int], object]]:
    """The places of a block by its columns."""
    tables: dict[int, pa.Table] = {}
    made: dict[int, PackColumns] = {}
    rows = np.arange(kind.rows)

    def read(block: int) -> None:
        tables[block] = parquet_rows._at_position(raw, footer, block)

    def columns(block: int) -> None:
        made[block] = parquet_rows._by_columns(kind.stream.name, tables[block], footer.contents.cursors_of(block))

    def answer(block: int) -> None:
        builder = ReplyBuilder("r", kind.stream)
        assert len([*builder.add(BlockRead(BlockRef(SOURCE, block), rows, rows), made[block])]) < 2
        builder.close()

    return {
        "read and decode": read,
        "objects": columns,
        "digest": lambda block: packs.columns_digest(made[block]),
        "border and answer": answer,
        "of it the border": lambda block: column_border.refused(made[block], rows, kind.stream),
    }


def places(kind: Kind, number: int, rounds: int) -> dict[str, dict[str, float]]:
    """CPU ms a block by place, medians over blocks and rounds, by turns."""
    spent: dict[tuple[str, str], list[float]] = {}
    with server("file") as new:
        objects = new("places")
        store = ParquetStore(objects, "bench")
        store.create("bench")
        store.append(kind.stream.name, SOURCE, kind.packs(number))
        [written] = objects_of(objects, kind)
        path = Path(objects.where) / written.name
        with path.open("rb") as one, path.open("rb") as other:
            metadata = pq.read_metadata(path)
            footer = parquet_rows.Footer(metadata, parquet_file.contents_of(metadata))
            sides = {"before": before(kind, one, footer), "after": after(kind, other, footer)}
            for index in range(rounds + 1):
                for block in range(number):
                    for side, steps in sides.items():
                        for place, act in steps.items():
                            cpu_s = time.process_time()
                            act(block)
                            if index:
                                spent.setdefault((side, place), []).append(1000 * (time.process_time() - cpu_s))
    return {
        side: {place: median(times) for (of, place), times in spent.items() if of == side}
        for side in ("before", "after")
    }


def main() -> None:
    parser = bench_parser(__doc__, "two rounds, fewer blocks")
    parser.add_argument("--edges", type=several(int), default=[1, 2, 4], help="how many ask at once")
    parser.add_argument("--stores", type=several(str), default=["file"], help="of file, hdfs, s3")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    result: dict[str, Any] = {}
    for kind in (images(), photographs()):
        number = 40 if arguments.quick else 200
        result[kind.stream.name] = {
            "rates": {store: rates(kind, store, number, rounds, arguments.edges) for store in arguments.stores},
            "places": places(kind, 40, rounds),
        }
        print_of(kind.stream.name, result[kind.stream.name])
    if arguments.json:
        print(json.dumps(result))


def print_of(name: str, figures: Mapping[str, Any]) -> None:
    for store, rates_of in figures["rates"].items():
        print(f"{f'{name}, {store}':24}{'MB/s':>8}{'MB/CPU s':>10}{'spread':>8}")
        for work, each in rates_of.items():
            spread = f"{each['spread']:8.2f}" if "spread" in each else ""
            print(f"  {work:22}{each['mb_per_s']:8.1f}{each['mb_per_cpu_s']:10.1f}{spread}")
    print(f"{'CPU ms a block':24}{'before':>8}{'after':>10}")
    for place, after_ms in figures["places"]["after"].items():
        before_ms = figures["places"]["before"].get(place)
        print(f"  {place:22}{'' if before_ms is None else f'{before_ms:.2f}':>8}{after_ms:10.2f}", flush=True)


if __name__ == "__main__":
    main()
