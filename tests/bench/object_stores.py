# ruff: noqa: T201 - a script that prints what it measured
"""What a store of objects takes in and gives out: MB/s and CPU a MB, beside the bare client of the same server.

Run it from the repository: python -m tests.bench.object_stores [--stores local,hdfs,s3] [--rounds 5] [--quick] [--json]

Real HDFS (a NameNode and three DataNodes, replication 2) and a real S3 gateway on this machine. By turns, medians: an
object of 64 MiB published as the archive's port does (if absent, durable) and as the client alone writes one that is as
durable; and 200 ranges of 200 kB of it, read in any order. `cpu`: ms of this process a MiB, the servers' not counted.
"""

import argparse
import json
import os
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple, Protocol

import obstore
from hdfs_native import Client, FileReader, WriteOptions

from edged.adapters.hdfs import hdfs_store
from edged.adapters.local import local_store
from edged.adapters.objects.store import Store
from edged.adapters.s3 import s3_store
from edged.domain.topology import HdfsAccess
from tests.bench.arguments import bench_parser, several
from tests.support.hdfs import Hdfs
from tests.support.s3 import BUCKET, Versitygw

MIB = 1 << 20
RANGE = 200_000
PIECE = 4 * MIB


class Figures(NamedTuple):
    mib_per_s: float
    cpu_ms_per_mib: float


class Side(Protocol):
    """The port, or a bare client."""

    def write(self, name: str, pieces: Sequence[bytes]) -> None: ...
    def read(self, name: str, offset: int, length: int) -> bytes: ...


class ByPort:
    def __init__(self, store: Store) -> None:
        self._store = store

    def write(self, name: str, pieces: Sequence[bytes]) -> None:
        assert self._store.publish(name, pieces)

    def read(self, name: str, offset: int, length: int) -> bytes:
        content = self._store.read(name, offset, length)
        assert content is not None
        return content


class BareFiles:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, pieces: Sequence[bytes]) -> None:
        with (self._folder / name).open("xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())

    def read(self, name: str, offset: int, length: int) -> bytes:
        with (self._folder / name).open("rb") as file:
            return os.pread(file.fileno(), length, offset)


class BareHdfs:
    def __init__(self, url: str, folder: str) -> None:
        self._client = Client(url)
        self._folder = folder
        self._readers: dict[str, FileReader] = {}

    def write(self, name: str, pieces: Sequence[bytes]) -> None:
        writer = self._client.create(f"{self._folder}/{name}", WriteOptions(create_parent=True))
        for piece in pieces:
            writer.write(piece)
        writer.hsync()
        writer.close()

    def read(self, name: str, offset: int, length: int) -> bytes:
        if name not in self._readers:
            self._readers[name] = self._client.read(f"{self._folder}/{name}")
        return self._readers[name].read_range(offset, length)


class BareS3:
    def __init__(self, gateway: Versitygw) -> None:
        self._client = gateway.raw()

    def write(self, name: str, pieces: Sequence[bytes]) -> None:
        obstore.put(self._client, name, list(pieces), mode="create", use_multipart=False)

    def read(self, name: str, offset: int, length: int) -> bytes:
        return bytes(obstore.get_range(self._client, name, start=offset, length=length))


@contextmanager
def sides(kind: str) -> Iterator[Mapping[str, Side]]:
    """The port and the bare client, over one server."""
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as folder:
        if kind == "local":
            yield {"port": ByPort(local_store(f"file://{folder}", "bench")), "bare": BareFiles(Path(folder))}
        elif kind == "hdfs":
            with Hdfs() as cluster:
                url = f"hdfs://{cluster.address}"
                store = hdfs_store(f"{url}/edged", HdfsAccess(), "bench", deadline_s=600)
                store.create()
                yield {"port": ByPort(store), "bare": BareHdfs(url, "/edged")}
        else:
            with Versitygw() as gateway:
                store = s3_store(f"s3://{BUCKET}/edged", gateway.access(), "bench", deadline_s=600)
                yield {"port": ByPort(store), "bare": BareS3(gateway)}


def measured(work: Callable[[], object], num_bytes: int) -> Figures:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return Figures(num_bytes / MIB / wall_s, 1000 * cpu_s / (num_bytes / MIB))


def rounds(kind: str, number: int, num_pieces: int, num_ranges: int) -> Mapping[str, Mapping[str, Figures]]:
    """The medians of each kind of work, of both sides."""
    pieces = [os.urandom(PIECE) for _ in range(num_pieces)]
    size = num_pieces * PIECE
    offsets = [random.Random(number).randrange(size - RANGE) for _ in range(num_ranges)]  # noqa: S311 - any order
    found: dict[tuple[str, str], list[Figures]] = {}
    with sides(kind) as both:
        for index in range(number + 1):
            for name, side in sorted(both.items(), reverse=bool(index % 2)):
                file = f"{uuid.uuid4().hex}-{name}"
                figures = {
                    "write": measured(lambda side=side, file=file: side.write(file, pieces), size),  # type: ignore[misc]
                    "ranges": measured(
                        lambda side=side, file=file: [side.read(file, offset, RANGE) for offset in offsets],  # type: ignore[misc]
                        num_ranges * RANGE,
                    ),
                }
                for work, figure in figures.items() if index else ():  # the first round warms up
                    found.setdefault((work, name), []).append(figure)
    return {
        work: {
            name: Figures(*(median(column) for column in zip(*found[work, name], strict=True)))
            for name in ("port", "bare")
        }
        for work in ("write", "ranges")
    }


def main() -> None:
    parser = bench_parser(__doc__, "two rounds, of 16 MiB")
    parser.add_argument("--stores", type=several(str), default=["local", "hdfs", "s3"], help="of local, hdfs, s3")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    report(arguments)


def report(arguments: argparse.Namespace) -> None:
    number, num_pieces, num_ranges = (2, 4, 50) if arguments.quick else (arguments.rounds, 16, 200)
    result = {}
    print(f"{'':8}{'':8}{'port MiB/s':>12}{'bare':>8}{'port ms/MiB':>14}{'bare':>8}")
    for kind in arguments.stores:
        result[kind] = rounds(kind, number, num_pieces, num_ranges)
        for work, each in result[kind].items():
            port, bare = each["port"], each["bare"]
            print(
                f"{kind:8}{work:8}{port.mib_per_s:12.1f}{bare.mib_per_s:8.1f}"
                f"{port.cpu_ms_per_mib:14.2f}{bare.cpu_ms_per_mib:8.2f}",
                flush=True,
            )
    if arguments.json:
        print(
            json.dumps(
                {
                    kind: {w: {n: f._asdict() for n, f in e.items()} for w, e in of.items()}
                    for kind, of in result.items()
                }
            )
        )


if __name__ == "__main__":
    main()
