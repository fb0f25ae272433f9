"""What the cache's bench measures: an edge as a real process, behind a link of its own to a real Kafka.

Covers the topologies, the archive, one run of the edge and what it came to. Which runs there are, and showing them, is
`cache`'s subject. The archive node stays up over all runs; each run's edge has state and cache folders of its own.
"""

import asyncio
import gzip
import shutil
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edged.adapters.disk.sqlite_cache import MAX_LOG_BYTES
from edged.cli.demo.processes import Child, LogLine
from edged.domain.cache.entry import ENTRY_OVERHEAD_BYTES
from edged.domain.topology import MIB
from edged.services.cache.cache import DISK_SHARE
from edged.services.cache.disk_gate import SPILL_BYTES
from tests.bench.cpu_limit import limits
from tests.bench.curve import Watch, reached
from tests.bench.link import Link
from tests.bench.sampling_study import DATA, SAMPLE_BYTES, read, with_wrong_labels
from tests.support.brokers import Apache, free_port
from tests.support.site import DEFECTS, DESIGNS_MODEL
from tests.support.site import FASHION as LABELS

THESIS = "thesis"
"""The mode without a cache: each epoch is fetched again from the archive."""

NUM_TRAINING = 60_000
_DISK_FILLED = 0.95
"""The share of its bytes that the disk tier offers; see adapters.disk.sqlite_cache."""

_TOPOLOGY = """\
schema: 1
site: bench
kafka: {{bootstrap: ["127.0.0.1:{port}"]}}
streams:
  fashion:
    sample: {{shape: [28, 28, 1], dtype: uint8}}
    labels: {labels}
iot:
  - {{name: cam-01, edge: pi-a, stream: fashion, codec: raw}}
edges:
  - name: pi-a
    cache: {{memory: {memory}, disk: {disk}}}
    prefetch: {prefetch}
    memory_limit: 1GiB
archive:
  - {{name: vault, url: "{archive}"}}
training:
  stream: fashion
  model: {model}
  source: archive
  seed: {seed}
  epochs: {epochs}
  global_batch: 128
  optimizer: {{sgd: {{learning_rate: 0.05, momentum: 0.9}}}}
  schedule: {{cosine: {{warmup: 0.2}}}}
  sampling: {{mode: {mode}}}
  test_samples: 500
  checkpoint: {checkpoint}
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One run. `fraction`: of the training samples that the cache has room for."""

    mode: str
    fraction: float
    seed: int


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all runs have in common. `rate`: the link's bytes a second; `checkpoint_s`: between two measured points.

    `cores`: what the edge may take of the machine's, all others the rest; 0: no limit.
    """

    images: int
    epochs: int
    rate: float
    wrong_labels: float
    goal: float
    checkpoint_s: float
    memory_only: bool = False
    cores: float = 0.0
    prefetch: int = 16 * MIB


class Site:
    """Broker, link, archive and archive node. Made by `site()`."""

    def __init__(self, folder: Path, conditions: Conditions, link: Link, ports: tuple[int, int]) -> None:
        self._folder = folder
        self._conditions = conditions
        self._link = link
        self._direct, self._through_link = ports
        self._num_runs = 0
        self._test = read("t10k")

    def vault_topology(self) -> Path:
        """The archive node's topology file: it reaches the broker directly."""
        return self._write("vault.yaml", self._direct, Setting(THESIS, 0.0, 0))

    async def run(self, setting: Setting) -> dict[str, Any]:
        """Train as `setting` says, from the first epoch to the last, and say what it came to."""
        self._num_runs += 1
        name = f"run-{self._num_runs}"
        topology = self._write(f"{name}.yaml", self._through_link, setting)
        folder = self._folder / name
        watch = Watch(folder / "state" / "edged" / "pi-a", lambda: self._link.traffic().down)
        environment = {"XDG_STATE_HOME": str(folder / "state"), "XDG_CACHE_HOME": str(folder / "cache")}
        log_file = self._folder / f"{name}.log"
        with limits(1, self._conditions.cores) as [limit]:
            edge = await Child.start(
                name, "run", str(topology), "--node", "pi-a",
                within=limit.within, environment=environment, log_file=log_file, on_line=watch.take,
            )  # fmt: skip
            limit.take(edge.pid)
            try:
                await edge.wait_for("train.finished")
            finally:
                limit.release(edge.pid)
                await edge.stop()
        defects = [*edge.noise, *(str(line) for line in edge.lines if line["event"] in DEFECTS)]
        shutil.rmtree(folder)
        curve = await asyncio.to_thread(lambda: list(watch.curve(self._test)))
        return {
            "mode": setting.mode, "fraction": setting.fraction, "seed": setting.seed,
            "wrong_labels": self._conditions.wrong_labels, "rate": self._conditions.rate,
            "images": self._conditions.images, "memory_only": self._conditions.memory_only,
            "cores": self._conditions.cores,
            "epochs": _epochs(edge.lines, curve), "curve": curve, "defects": defects,
            **reached(curve, self._conditions.goal),
        }  # fmt: skip

    def _write(self, name: str, port: int, setting: Setting) -> Path:
        conditions = self._conditions
        memory, disk = _budgets(setting, conditions)
        path = self._folder / name
        path.write_text(
            _TOPOLOGY.format(
                port=port, labels=LABELS, memory=memory, disk=disk, prefetch=conditions.prefetch,
                archive=(self._folder / "archive").as_uri(), model=DESIGNS_MODEL, seed=setting.seed,
                epochs=conditions.epochs, mode="uniform" if setting.mode == THESIS else setting.mode,
                checkpoint=conditions.checkpoint_s,
            )
        )  # fmt: skip
        return path


@asynccontextmanager
async def site(folder: Path, conditions: Conditions) -> AsyncIterator[Site]:
    """All that an edge needs, with the images in the archive."""
    inner, outer = free_port(), free_port()
    with _broker(inner, outer) as broker, Link(outer, inner, conditions.rate) as link:
        made = Site(folder, conditions, link, (broker.port, outer))
        vault_file = made.vault_topology()
        await _import(vault_file, folder, conditions)
        environment = {"XDG_STATE_HOME": str(folder / "vault"), "XDG_CACHE_HOME": str(folder / "vault")}
        vault = await Child.start(
            "vault", "run", str(vault_file), "--node", "vault", environment=environment, log_file=folder / "vault.log"
        )
        try:
            await vault.wait_for("life.ready")
            yield made
        finally:
            await vault.stop()


def _broker(inner: int, outer: int) -> Apache:
    """Its listener LINK sends clients to port `outer`, where the link is. What was read goes soon."""
    port = free_port()
    settings = {
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},LINK://127.0.0.1:{outer}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,LINK:PLAINTEXT",
        "log.retention.bytes": str(256 * MIB),
        "log.segment.bytes": str(64 * MIB),
        "log.retention.check.interval.ms": "10000",
    }
    return Apache(settings, port=port, listeners={"LINK": inner})


def _budgets(setting: Setting, conditions: Conditions) -> tuple[int, int]:
    """Bytes of the memory tier and of the disk tier: a quarter and three, or all in memory."""
    room = round(setting.fraction * conditions.images * (SAMPLE_BYTES + ENTRY_OVERHEAD_BYTES))
    if not room:
        return 0, 0
    if conditions.memory_only:
        return max(room, MIB), 0
    memory = max(room // 4, MIB)
    offered = (max(room - memory, 0) + min(SPILL_BYTES, memory // 4)) / DISK_SHARE
    pages = offered / _DISK_FILLED  # beside them is the disk tier's log, a quarter of all but no more than its most
    return memory, max(round(pages + min(MAX_LOG_BYTES, pages / 3)), MIB)


async def _import(topology: Path, folder: Path, conditions: Conditions) -> None:
    source = "fashion-mnist"
    if conditions.wrong_labels:
        source = str(_mislabelled(folder / "fashion-mislabelled", conditions.wrong_labels))
    arguments = ("archive", "import", str(topology), "--from", source, "--limit", str(conditions.images))
    importer = await Child.start("import", *arguments)
    if await importer.ended() != 0:
        raise RuntimeError(f"the import failed\n{importer.last_words()}")


def _mislabelled(folder: Path, share: float) -> Path:
    """The data set as IDX files, a share of its training labels wrong: the same ones every time."""
    folder.mkdir()
    for path in DATA.glob("*.gz"):
        shutil.copy(path, folder)
    labels = with_wrong_labels(read("train"), share).y.astype(np.uint8)
    header = struct.pack(">BBBBI", 0, 0, 8, 1, len(labels))
    with gzip.open(folder / "train-labels-idx1-ubyte.gz", "wb") as file:
        file.write(header + labels.tobytes())
    return folder


def _epochs(lines: Sequence[LogLine], curve: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The log's figures of each epoch, with the whole test set's accuracy and the link's bytes."""
    ends = {point["epoch"]: point for point in curve if point["epoch"] is not None}
    cache, train = ([line for line in lines if line["event"] == event] for event in ("cache.epoch", "train.epoch"))
    epochs, bytes_before = [], 0
    for reads, trained in zip(cache, train, strict=True):
        end = ends[trained["epoch"] + 1]
        figures = {key: reads[key] for key in _CACHE_FIGURES} | {key: trained[key] for key in _TRAIN_FIGURES}
        link_bytes = end["link_bytes"] - bytes_before
        epochs.append({**figures, "link_bytes": link_bytes, "test_accuracy": end["accuracy"]})
        bytes_before = end["link_bytes"]
    return epochs


_CACHE_FIGURES = (
    "reads", "hit_ratio", "fresh_hit_ratio", "distinct_samples", "effective_samples", "fetched_samples",
    "fetched_bytes", "memory_bytes", "disk_bytes", "written_bytes", "corrupt",
)  # fmt: skip
_TRAIN_FIGURES = ("epoch", "samples", "samples_per_s", "seconds", "wait_fraction", "loss")
