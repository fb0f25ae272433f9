# ruff: noqa: T201, S311, SIM118 - a script that prints what it measured, with loads drawn by random
"""Which embedded store keeps the cache's entries: LMDB, or SQLite as adapters.disk.sqlite_cache uses it.

Run it from the repository: python -m tests.bench.disk_store [--quick] [--json]

Each store runs in a process of its own. Fill: entries in batches of 256 KiB; replace: as many again, victims at
random. Bytes per byte stored: `handed`, to write calls (what reaches the device where each commit is flushed, or days
pass between two writes of a page), and `device`, as the kernel counts pages made dirty (within seconds it merges
them). Faults: processes that write are killed, meet a full disk (RLIMIT_FSIZE), 20 changed bytes or a torn file;
counted are the stores that then end a process by a signal, serve altered content, or do not open. LMDB needs
`pip install lmdb`.
"""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from edged.adapters.disk.sqlite_cache import SqliteCache
from edged.domain.cache import entry as cache_entry
from edged.domain.cache.entry import Entry, SampleKey
from edged.errors import FormatError
from tests.bench.arguments import bench_parser

BATCH_BYTES = 256 * 1024
KINDS = ("sqlite", "lmdb", "lmdb-sync")


class Store(Protocol):
    def replace(self, dead: Iterable[SampleKey], entries: Mapping[SampleKey, Entry]) -> None: ...
    def get(self, keys: Iterable[SampleKey]) -> Mapping[SampleKey, Entry]: ...
    def keys(self) -> list[SampleKey]: ...
    def close(self) -> None: ...


class Sqlite:
    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self._tier = SqliteCache(folder, budget_bytes, "bench")

    def replace(self, dead: Iterable[SampleKey], entries: Mapping[SampleKey, Entry]) -> None:
        self._tier.delete_many(dead)
        self._tier.put_many(entries)

    def get(self, keys: Iterable[SampleKey]) -> Mapping[SampleKey, Entry]:
        return self._tier.get_many(keys)

    def keys(self) -> list[SampleKey]:
        return [key for key, _ in self._tier.keys()]

    def close(self) -> None:
        self._tier.close()


class Lmdb:
    """Entries by key; `sync`: data is flushed at each commit, without which a power cut may break the tree."""

    def __init__(self, folder: Path, budget_bytes: int, *, sync: bool) -> None:
        import lmdb  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - measured alone

        self._env = lmdb.open(str(folder), map_size=budget_bytes, sync=sync, metasync=False, readahead=False)

    def replace(self, dead: Iterable[SampleKey], entries: Mapping[SampleKey, Entry]) -> None:
        with self._env.begin(write=True) as transaction:
            for key in dead:
                transaction.delete(self._name(key))
            for key, entry in entries.items():
                transaction.put(self._name(key), cache_entry.encode(key, entry))

    def get(self, keys: Iterable[SampleKey]) -> Mapping[SampleKey, Entry]:
        found = {}
        with self._env.begin() as transaction:
            for key in keys:
                try:
                    found[key] = cache_entry.decode(key, transaction.get(self._name(key), b""))
                except FormatError:
                    continue
        return found

    def keys(self) -> list[SampleKey]:
        with self._env.begin() as transaction:
            names = [bytes(name) for name in transaction.cursor().iternext(values=False)]
        return [SampleKey("a", int(name[:16], 16), int(name[16:], 16)) for name in names]

    def close(self) -> None:
        self._env.close()

    def _name(self, key: SampleKey) -> bytes:
        return b"%016x%04x" % (key.offset, key.row)


def opened(kind: str, folder: Path, budget_bytes: int) -> Store:
    if kind == "sqlite":
        return Sqlite(folder, budget_bytes)
    return Lmdb(folder, budget_bytes, sync=kind == "lmdb-sync")


def entry(key: SampleKey, size: int) -> Entry:
    return Entry(random.Random(f"{key}").randbytes(16) * (size // 16), "raw", str(key.row % 10))


def measure(kind: str, folder: Path, size: int, num: int) -> dict[str, Any]:
    """Fill, replace all, read: one store's figures."""
    batch, chosen = max(1, BATCH_BYTES // size), random.Random(1)
    fresh = iter(SampleKey("a", at // 256, at % 256) for at in chosen.sample(range(20 * num), 20 * num))
    store = opened(kind, folder, 4 * num * (size + 100))
    held: list[SampleKey] = []
    results: dict[str, Any] = {}
    for phase in ("fill", "replace"):
        before, spent_s, put_bytes = io_bytes(), 0.0, 0
        for _ in range(-(-num // batch)):
            coming = {key: entry(key, size) for key in (next(fresh) for _ in range(batch))}
            dead = [] if phase == "fill" else [held.pop(chosen.randrange(len(held))) for _ in range(batch)]
            begin_s = time.perf_counter()
            store.replace(dead, coming)
            spent_s += time.perf_counter() - begin_s
            held += coming
            put_bytes += batch * size
        results[f"{phase}_mb_per_s"] = put_bytes / spent_s / 1e6
        for name, value in io_bytes().items():
            results[f"{phase}_{name}"] = (value - before[name]) / put_bytes
    reads_s = []
    for _ in range(100 if size < 10_000 else 20):
        wanted = chosen.sample(held, min(128, len(held)))
        begin_s = time.perf_counter()
        assert len(store.get(wanted)) == len(wanted)
        reads_s.append(time.perf_counter() - begin_s)
    results["read_128_ms"] = statistics.median(reads_s) * 1e3
    results["file_per_stored"] = sum(file.stat().st_blocks * 512 for file in folder.iterdir()) / (num * size)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    for name, label in (("rss_mb", "VmRSS"), ("rss_anonymous_mb", "RssAnon")):
        results[name] = int(status[label].split()[0]) / 1024
    store.close()
    return results


def io_bytes() -> dict[str, int]:
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return {"handed": int(counts["wchar"]), "device": int(counts["write_bytes"])}


def write_forever(kind: str, folder: Path, max_file_bytes: int) -> None:
    """Until killed or refused. Refused: read all, and end with exit code 3 when that works."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes or resource.RLIM_INFINITY,) * 2)
    store, chosen = opened(kind, folder, 64 << 20), random.Random()
    print("open", flush=True)
    while True:
        held = [] if max_file_bytes else store.keys()
        coming = [SampleKey("a", chosen.randrange(40), chosen.randrange(256)) for _ in range(64)]
        try:
            store.replace(chosen.sample(held, min(len(held) // 20, 60)), {key: entry(key, 784) for key in coming})
        except Exception:  # noqa: BLE001 - each store has its own
            assert all(kept == entry(key, 784) for key, kept in store.get(store.keys()).items())
            raise SystemExit(3) from None


def check(kind: str, folder: Path) -> None:
    """Open, read all, write: exit code 0 when nothing altered was served, 4 when it was."""
    store = opened(kind, folder, 64 << 20)
    served = store.get(store.keys())
    if not all(kept == entry(key, 784) for key, kept in served.items()):
        raise SystemExit(4)
    store.replace(list(served)[:100], {key: entry(key, 784) for key in [SampleKey("a", 99, row) for row in range(64)]})
    store.close()
    print(len(served))


def child(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.bench.disk_store", "--child", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


def faults(kind: str, folder: Path, runs: int) -> dict[str, Any]:
    """How often a fault of each kind ended a process, was served, or lost everything."""
    chosen = random.Random(3)
    killed, full, flipped, torn = [], [], [], []
    for at in range(runs):
        place = folder / f"kill{at}"
        place.mkdir()
        command = [sys.executable, "-m", "tests.bench.disk_store", "--child", "write", kind, str(place), "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(chosen.uniform(0.05, 0.4))
            writer.send_signal(signal.SIGKILL)
        killed.append(child("check", kind, place))
    for max_bytes in (300_000, 1_000_000, 3_000_000):
        place = folder / f"full{max_bytes}"
        place.mkdir()
        wrote = child("write", kind, place, max_bytes)
        full.append(wrote if wrote.returncode != 3 else child("check", kind, place))
    whole = folder / f"kill{runs - 1}"
    for at in range(3 * runs):
        place = folder / f"flip{at}"
        shutil.copytree(whole, place)
        with max(place.iterdir(), key=lambda file: file.stat().st_size).open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            for _ in range(20):
                file.seek(chosen.randrange(size))
                file.write(chosen.randbytes(1))
        flipped.append(child("check", kind, place))
    for share in (0.3, 0.5, 0.7, 0.9):
        place = folder / f"torn{share}"
        shutil.copytree(whole, place)
        largest = max(place.iterdir(), key=lambda file: file.stat().st_size)
        os.truncate(largest, int(largest.stat().st_size * share))
        torn.append(child("check", kind, place))
    return {"kill": verdict(killed), "full": verdict(full), "flip": verdict(flipped), "torn": verdict(torn)}


def verdict(runs: list[subprocess.CompletedProcess[str]]) -> str:
    """As "12 runs: 10 served, 2 died by a signal"."""
    served = sum(run.returncode == 0 and int(run.stdout or 0) > 0 for run in runs)
    counts = {
        "served": served,
        "began anew": sum(run.returncode == 0 for run in runs) - served,
        "died by a signal": sum(run.returncode < 0 for run in runs),
        "served altered content": sum(run.returncode == 4 for run in runs),
        "raised": sum(run.returncode not in {0, 4} and run.returncode > 0 for run in runs),
    }
    return f"{len(runs)} runs: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def main() -> None:
    parser = bench_parser(__doc__, "about a minute")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        serve(*arguments.child)
        return
    results: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.release()}"}
    print(results["machine"])
    for kind in KINDS:
        for size, num in ((784, 10_000), (200_000, 100)) if arguments.quick else ((784, 100_000), (200_000, 2000)):
            with tempfile.TemporaryDirectory() as folder:
                done = child("measure", kind, folder, size, num)
            results[f"{kind} {size}"] = json.loads(done.stdout) if not done.returncode else done.stderr[-300:]
            print(f"\n{kind}, {num} entries of {size} bytes")
            show(results[f"{kind} {size}"])
        with tempfile.TemporaryDirectory() as folder:
            results[f"{kind} faults"] = faults(kind, Path(folder), 4 if arguments.quick else 20)
        show(results[f"{kind} faults"])
    if arguments.json:
        print(json.dumps(results))


def serve(task: str, kind: str, folder: str, *numbers: str) -> None:
    tasks: dict[str, Callable[..., Any]] = {"measure": measure, "write": write_forever, "check": check}
    result = tasks[task](kind, Path(folder), *map(int, numbers))
    if result is not None:
        print(json.dumps(result))


def show(figures: Any) -> None:
    if not isinstance(figures, dict):
        print(f"  failed: {figures}")
        return
    for name, value in figures.items():
        print(f"  {name:24}{value if isinstance(value, str) else f'{value:10.2f}'}")


if __name__ == "__main__":
    main()
