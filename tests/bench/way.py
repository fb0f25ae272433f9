# ruff: noqa: T201 - a script prints
"""What the way to the trainer costs: CPU a sample by place, how long the lanes stand still, and a plain script beside.

    python -m tests.bench.way [--quick] [--json] [--batches 64] [--jobs 1] [--kinds raw,jpeg] [--no-script] [--waits]

An edge trains README's model as a real process over real Kafka, for each kind of sample (raw 28×28; JPEG 64×64 in
colour), mini-batch and number of jobs, twice: with a cache that holds everything, and with none, so that each epoch is
streamed. Places are timed inside the edge (see `way_places`); the first epoch, in which buffers and caches fill, does
not count. Archive node and broker are processes of their own, and are counted apart. Beside it, in the same run: the
script that people write instead (see `way_script`), TensorFlow in an environment of its own.

With `--waits` it counts instead what the lanes wait for, by cause (see `way_waits`).

The timing itself takes about 1 % of the CPU. Compare shares and ratios: other work on the machine slows everything.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from edged.adapters.datasets.registry import open_dataset
from edged.adapters.embedded.server import killed_with_parent
from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.cli.demo.processes import Child
from edged.domain.topology import Kafka
from edged.ports import Message, TopicSpec
from tests.bench import trainer
from tests.bench.arguments import bench_parser, several
from tests.bench.way_places import OUTSIDE, PLACES
from tests.support.brokers import Apache
from tests.support.site import DESIGNS_MODEL, FASHION

_EPOCHS = 4
_SIZE = {"raw": (28, 1), "jpeg": (64, 3)}
_SAMPLES = {"raw": 18_000, "jpeg": 6_000}
_QUICK_SAMPLES = {"raw": 6_000, "jpeg": 2_000}
_CACHES = {"cached": "256MiB", "streamed": "0"}
_MANY_AT_ONCE = 200
_LEAST_SHOWN = 0.001

_TOPOLOGY = """\
schema: 1
site: way
kafka: {{bootstrap: ["{bootstrap}"]}}
streams:
  fashion:
    sample: {{shape: [{size}, {size}, {channels}], dtype: uint8}}
    labels: {labels}
iot:
  - {{name: cam-01, edge: pi-a, stream: fashion, codec: {codec}}}
edges:
  - {{name: pi-a, cache: {{memory: {memory}, disk: 0}}, prefetch: 16MiB, memory_limit: 1GiB}}
archive:
  - {{name: vault, url: "{archive}"}}
training:
{jobs}"""

_JOB = """\
  - name: job-{number}
    stream: fashion
    model: {model}
    source: archive
    epochs: {epochs}
    global_batch: {batch}
    optimizer: {{sgd: {{learning_rate: 0.05, momentum: 0.9}}}}
    test_samples: 500
    checkpoint: 5min
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a kind's samples come from."""

    folder: Path
    bootstrap: str
    kind: str
    samples: int
    data: str

    def topology(self, batch: int, memory: str, num_jobs: int = 1) -> Path:
        size, channels = _SIZE[self.kind]
        path = self.folder / f"{batch}-{memory}-{num_jobs}.yaml"
        jobs = "".join(
            _JOB.format(number=number, model=DESIGNS_MODEL, epochs=_EPOCHS, batch=batch) for number in range(num_jobs)
        )
        path.write_text(
            _TOPOLOGY.format(
                bootstrap=self.bootstrap, size=size, channels=channels, labels=FASHION, codec=self.kind, memory=memory,
                archive=(self.folder / "archive").as_uri(), jobs=jobs,
            )
        )  # fmt: skip
        return path


async def measure(
    kind: str,
    batches: Sequence[int],
    jobs: Sequence[int],
    samples: int,
    data: str,
    *,
    with_script: bool,
    with_waits: bool,
) -> dict[str, Any]:
    """All runs of one kind of sample."""
    with tempfile.TemporaryDirectory() as folder, Apache() as broker:
        place = Place(Path(folder), f"127.0.0.1:{broker.port}", kind, samples, data)
        source = _data(place)
        runs: dict[str, Any] = {}
        async with _archive_node(place, source) as vault:
            servers = {"archive node": psutil.Process(vault.pid), "broker": _broker_process(broker)}
            for batch, num_jobs, (name, memory) in product(batches, jobs, _CACHES.items()):
                title = f"{name}, batch {batch}" + (f", {num_jobs} jobs" if num_jobs > 1 else "")
                if with_waits:
                    runs[title] = await _waits(place, batch, memory, num_jobs)
                else:
                    runs[title] = await _edge(place, batch, memory, num_jobs, servers)
        if with_script:
            runs[f"script, batch {batches[0]}"] = await _script(place, source, batches[0])
        return runs


def _data(place: Place) -> str:
    """What the archive imports: the data set itself, or a folder of JPEGs made of it."""
    if place.kind == "raw":
        return place.data
    folder, size = place.folder / "images", _SIZE["jpeg"][0]
    images = open_dataset(place.data)
    for number in range(min(place.samples, images.count("train"))):
        item = images.sample("train", number)
        label = folder / "train" / str(item.label)
        label.mkdir(parents=True, exist_ok=True)
        pixels = Image.frombytes("L", (28, 28), item.payload).resize((size, size)).convert("RGB")
        pixels.save(label / f"{number}.jpg", quality=90)
    return str(folder)


@asynccontextmanager
async def _archive_node(place: Place, source: str) -> Any:
    topology = place.topology(64, "0")
    importer = await Child.start(
        "import",
        "archive",
        "import",
        str(topology),
        "--from",
        source,
        "--limit",
        str(place.samples),
        "--split",
        "train",
    )
    if await importer.ended() != 0:
        raise RuntimeError(f"the import failed\n{importer.last_words()}")
    vault = await Child.start("vault", "run", str(topology), "--node", "vault", environment=_folders(place, "vault"))
    try:
        await vault.wait_for("life.ready")
        yield vault
    finally:
        await vault.stop()


def _folders(place: Place, name: str) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(place.folder / name / "state"), "XDG_CACHE_HOME": str(place.folder / name / "cache")}


def _broker_process(broker: Apache) -> psutil.Process:
    [process] = [each for each in psutil.Process().children(recursive=True) if "java" in each.name()]
    return process


async def _edge(
    place: Place, batch: int, memory: str, num_jobs: int, servers: Mapping[str, psutil.Process]
) -> dict[str, Any]:
    async with _watched(place, batch, memory, num_jobs, by="way_places") as (edge, figures):
        await edge.wait_for("train.epoch", num_jobs)
        before = {name: _cpu_s(process) for name, process in servers.items()}
        await edge.wait_for("train.finished", num_jobs)
        after = {name: _cpu_s(process) for name, process in servers.items()}
    epochs = [json.loads(line) for line in figures.read_text().splitlines()][num_jobs:]
    logged, cache = edge.seen("train.epoch")[num_jobs:], edge.seen("cache.epoch")[num_jobs:]
    samples = sum(epoch["samples"] for epoch in epochs)
    seconds = Counter[str]()
    for epoch in epochs:
        seconds.update(epoch["seconds"])
    places = {name: 1e6 * seconds[name] / samples for name in seconds}
    return {
        "samples_per_s": samples * num_jobs / sum(line["seconds"] for line in logged),
        "places_us_a_sample": places,
        "outside_us_a_sample": sum(places.get(name, 0.0) for name in OUTSIDE),
        "cpu_us_a_sample": sum(places.values()),
        "servers_us_a_sample": {name: 1e6 * (after[name] - before[name]) / samples for name in servers},
        "blocked_fraction": _mean(line.get("blocked_fraction") for line in logged),
        "wait_fraction": _mean(line["wait_fraction"] for line in logged),
        "bytes_a_sample": sum(line["fetched_bytes"] for line in cache) / samples,
        "peak_rss_bytes": edge.seen("life.stopped")[-1]["peak_rss_bytes"],
    }


async def _waits(place: Place, batch: int, memory: str, num_jobs: int) -> dict[str, Any]:
    """Shares of the lanes' time, epochs' ends and tests included."""
    async with _watched(place, batch, memory, num_jobs, by="way_waits") as (edge, figures):
        await edge.wait_for("train.finished", num_jobs)
    epochs = [json.loads(line) for line in figures.read_text().splitlines()][num_jobs:]
    seconds, lane_s = Counter[str](), sum(epoch["lane_s"] for epoch in epochs)
    for epoch in epochs:
        seconds.update(epoch["seconds"])
    logged = edge.seen("train.epoch")[num_jobs:]
    return {
        "waits": {name: each / lane_s for name, each in seconds.most_common()},
        "blocked_fraction": _mean(line.get("blocked_fraction") for line in logged),
    }


@asynccontextmanager
async def _watched(place: Place, batch: int, memory: str, num_jobs: int, *, by: str) -> AsyncIterator[Any]:
    """The edge, watched by a module that writes the figures of each epoch to a file."""
    name = f"edge-{batch}-{memory}-{num_jobs}"
    figures = place.folder / f"{name}.figures"
    edge = Child(name, place.folder / f"{name}.log")
    topology = str(place.topology(batch, memory, num_jobs))
    command = ["-m", f"tests.bench.{by}", str(figures), "run", topology, "--node", "pi-a"]
    await asyncio.get_running_loop().subprocess_exec(
        lambda: edge, *killed_with_parent([sys.executable, *command]),
        stdin=subprocess.DEVNULL, env={**os.environ, **_folders(place, name)}, start_new_session=True,
    )  # fmt: skip
    try:
        yield edge, figures
    finally:
        await edge.stop()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _mean(values: Any) -> float | None:
    known = list(values)
    return None if None in known else sum(known) / len(known)


async def _script(place: Place, source: str, batch: int) -> dict[str, Any]:
    """The plain script's figures, or why there are none."""
    if problem := trainer.install("script"):
        return {"failed": problem}
    await _publish(place, source)
    size, channels = _SIZE[place.kind]
    numbers = (size, channels, 10, place.samples, batch, _EPOCHS - 1)
    command = [trainer.python("script"), str(Path(__file__).with_name("way_script.py"))]
    process = await asyncio.create_subprocess_exec(
        *command, place.bootstrap, "script", place.kind, *map(str, numbers),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=trainer.environment(len(os.sched_getaffinity(0))),
    )  # fmt: skip
    out, err = await process.communicate()
    if process.returncode:
        return {"failed": err.decode().strip().splitlines()[-1]}
    figures: dict[str, Any] = json.loads(out.splitlines()[-1])
    return figures


async def _publish(place: Place, source: str) -> None:
    """The same samples as records of one topic, for the script."""
    async with KafkaLog(Kafka((place.bootstrap,)), RecordingHealth()) as log:
        await log.ensure([TopicSpec("script")])
        messages: list[Message] = []
        numbers: dict[str, int] = {}
        images = open_dataset(source)
        for number in range(min(place.samples, images.count("train"))):
            item = images.sample("train", number)
            label = numbers.setdefault(str(item.label), len(numbers))
            messages.append(Message("script", item.payload, key=str(label).encode()))
            if len(messages) == _MANY_AT_ONCE:
                await log.append(messages)
                messages = []
        if messages:
            await log.append(messages)


def show(kind: str, runs: Mapping[str, Any]) -> None:
    """A table of CPU microseconds a sample by place."""
    size, channels = _SIZE[kind]
    if any("waits" in run for run in runs.values()):
        _show_waits(kind, runs)
        return
    print(f"\n{kind} {size}×{size}×{channels}: µs of CPU a sample")
    edges = {name: run for name, run in runs.items() if "places_us_a_sample" in run}
    print("  " + " " * 28 + "".join(f"{name:>22}" for name in edges))
    for place in [*PLACES, "event loop", "hand-over", "foreign threads"]:
        print(f"  {place:28}" + "".join(f"{run['places_us_a_sample'].get(place, 0.0):22.1f}" for run in edges.values()))
    rows = {
        "outside the step": "outside_us_a_sample",
        "all of the edge": "cpu_us_a_sample",
        "samples/s": "samples_per_s",
    }
    for title, key in rows.items():
        print(f"  {title:28}" + "".join(f"{run[key]:22.1f}" for run in edges.values()))
    for title, key in {"lanes blocked, %": "blocked_fraction", "waited for data, %": "wait_fraction"}.items():
        print(f"  {title:28}" + "".join(f"{_percent(run[key]):>22}" for run in edges.values()))
    for server in ("archive node", "broker"):
        print(f"  {server:28}" + "".join(f"{run['servers_us_a_sample'][server]:22.1f}" for run in edges.values()))
    for title, key, unit in (
        ("peak RSS, MiB", "peak_rss_bytes", 2**20),
        ("bytes fetched a sample", "bytes_a_sample", 1),
    ):
        print(f"  {title:28}" + "".join(f"{run[key] / unit:22.1f}" for run in edges.values()))
    for name, run in runs.items():
        if name not in edges:
            print(f"  {name}: " + ", ".join(f"{key} {value:,.0f}" for key, value in run.items() if key != "failed"))
            if "failed" in run:
                print(f"    {run['failed']}")


def _show_waits(kind: str, runs: Mapping[str, Any]) -> None:
    for name, run in runs.items():
        print(f"\n{kind}, {name}: the lanes were blocked {_percent(run['blocked_fraction'])} of the epochs' time")
        for cause, share in run["waits"].items():
            if share >= _LEAST_SHOWN:
                print(f"  {share:6.1%}  {cause}")


def _percent(share: float | None) -> str:
    return "not readable" if share is None else f"{share:.1%}"


def main() -> None:
    parser: argparse.ArgumentParser = bench_parser(__doc__, "a third of the samples")
    parser.add_argument("--batches", type=several(int), default=[64])
    parser.add_argument("--jobs", type=several(int), default=[1], help="that train at the same time")
    parser.add_argument("--kinds", type=several(str), default=list(_SIZE))
    parser.add_argument("--data", default="fashion-mnist", help="the name of a data set, or its folder of IDX files")
    parser.add_argument("--no-script", action="store_true", help="leave out TensorFlow")
    parser.add_argument("--waits", action="store_true", help="count what the lanes wait for, and nothing else")
    arguments = parser.parse_args()
    samples = _QUICK_SAMPLES if arguments.quick else _SAMPLES
    report: dict[str, Any] = {"machine": trainer.machine()}
    for kind in arguments.kinds:
        report[kind] = asyncio.run(
            measure(
                kind,
                arguments.batches,
                arguments.jobs,
                samples[kind],
                arguments.data,
                with_script=not (arguments.no_script or arguments.waits),
                with_waits=arguments.waits,
            )
        )
        show(kind, report[kind])
        sys.stdout.flush()
    if arguments.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
