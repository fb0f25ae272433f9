"""What the exchange's bench measures: edges as real processes, slow and on slow links, around a real Apache Kafka.

Covers the topologies, the archive, one run of a group and what it came to. Which runs there are, and showing them, is
`exchange`'s subject; PyTorch's runs are `exchange_ddp`'s. Broker and archive node are not limited. Each run has a job,
an archive node and state folders of its own; the archive's files are those of all.
"""

import asyncio
import hashlib
import os
import shutil
import statistics
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from edged.cli.demo.processes import Child, ChildDied, LogLine
from edged.domain.cache.entry import ENTRY_OVERHEAD_BYTES
from edged.domain.topology import MIB
from edged.domain.training import state as state_module
from tests.bench.cpu_limit import Limit, limits
from tests.bench.curve import Watch, reached, unix_s
from tests.bench.network import Attachment, Network
from tests.bench.sampling_study import SAMPLE_BYTES, read
from tests.support.brokers import Apache, free_port
from tests.support.site import DEFECTS, DESIGNS_MODEL
from tests.support.site import FASHION as LABELS

ALONE = "none"
"""The mode of edges that exchange nothing, each with a model of its own: what the others are compared with."""

MOMENTUM = 0.9

_TOPOLOGY = """\
schema: 1
site: bench
kafka: {{bootstrap: ["{bootstrap}"]}}
streams:
  fashion:
    sample: {{shape: [28, 28, 1], dtype: uint8}}
    labels: {labels}
iot:
  - {{name: cam-01, edge: edge-0, stream: fashion, codec: raw}}
edges:
{edges}archive:
  - {{name: vault, url: "{archive}"}}
training:
  name: {job}
  stream: fashion
  model: {model}
  source: archive
  seed: {seed}
  epochs: {epochs}
  global_batch: {batch}
{reference_batch}  optimizer: {{sgd: {{learning_rate: {learning_rate}, momentum: {momentum}}}}}
  schedule: {{cosine: {{warmup: {warmup}}}}}
  sampling: {{mode: uniform}}
{exchange}  test_samples: 500
  checkpoint: {checkpoint}
"""
_EDGE = "  - {{name: edge-{i}, cache: {{memory: {memory}, disk: 0}}, prefetch: 8MiB, memory_limit: 1GiB}}\n"
_EXCHANGE = "  exchange: {{mode: {mode}, compression: {compression}, sync_every: {sync_every}}}\n"


@dataclass(frozen=True, slots=True)
class Setting:
    """One run. `link`: bits a second of each edge in each direction, 0 for all that the machine can; `delay_ms`: one
    way between an edge and the broker."""

    mode: str
    edges: int
    compression: str
    sync_every: int
    link: float
    delay_ms: float
    seed: int

    @property
    def delay_s(self) -> float:
        return self.delay_ms / 1e3


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all runs have in common. `cores`: CPUs of an edge, 0 for as many as there are; `reference_batch`: the one
    that the learning rate is meant for, 0 for the global batch itself; `warmup`: epochs; `checkpoint_s`: between two
    measured points."""

    images: int
    epochs: int
    batch: int
    cores: float
    goal: float
    learning_rate: float = 0.025
    reference_batch: int = 128
    warmup: float = 1.0
    checkpoint_s: float = 10.0
    patience_s: float = 1800.0


@dataclass(frozen=True, slots=True)
class Mark:
    """What an edge has used by some moment: bytes of its link, both ways, and seconds of its CPU."""

    link_bytes: int
    cpu_s: float


def mark(attachment: Attachment, pid: int) -> Mark:
    """Of this moment."""
    times = psutil.Process(pid).cpu_times()
    return Mark(sum(attachment.traffic()), times.user + times.system)


def between(before: Sequence[Mark], after: Sequence[Mark]) -> dict[str, float]:
    """What passed: the mean of the edges' bytes, and the sum of their seconds."""
    return {
        "link_bytes": statistics.mean(mark.link_bytes for mark in after)
        - statistics.mean(mark.link_bytes for mark in before),
        "cpu_s": sum(mark.cpu_s for mark in after) - sum(mark.cpu_s for mark in before),
    }


class Member:
    """An edge of a run: its process, its end of the network, and what it used until the end of each epoch."""

    def __init__(self, attachment: Attachment, limit: Limit, state_folder: Path, start: str) -> None:
        self.watch = Watch(state_folder, lambda: attachment.traffic().down, start)
        self.marks: list[Mark] = []
        self.child: Child
        self._attachment = attachment
        self._limit = limit

    async def start(self, index: int, topology: Path, folder: Path) -> None:
        """Start it, limited, on one CPU."""
        name = f"edge-{index}"
        environment = {"XDG_STATE_HOME": str(folder / name / "state"), "XDG_CACHE_HOME": str(folder / name / "cache")}
        self.child = await Child.start(
            name,
            "run",
            str(topology),
            "--node",
            name,
            within=[*self._limit.within, *pinned(index, self._limit), *self._attachment.within],
            environment=environment,
            log_file=folder / f"{name}.log",
            on_line=self._take,
        )
        self._limit.take(self.child.pid)

    async def stop(self) -> None:
        """Stop it; that need not be slow."""
        if self.child.exit_code is None:
            self._limit.release(self.child.pid)
        await self.child.stop()

    def _take(self, name: str, line: LogLine) -> None:
        self.watch.take(name, line)
        if line["event"] in {"train.started", "train.epoch"}:
            self.marks.append(mark(self._attachment, self.child.pid))


def pinned(index: int, limit: Limit) -> Sequence[str]:
    """The beginning of a command that runs on one CPU, if its share of one is limited. CPUs are taken in turn."""
    if not limit.limits:
        return ()
    cpus = sorted(os.sched_getaffinity(0))
    return ("taskset", "-c", str(cpus[index % len(cpus)]))


class Site:
    """Broker, network and archive. Made by `site()`."""

    def __init__(self, folder: Path, conditions: Conditions, network: Network, port: int) -> None:
        self._folder = folder
        self._conditions = conditions
        self._network = network
        self._port = port
        self._num_runs = 0
        self._test = read("t10k")

    async def fill(self) -> None:
        """Put the images into the archive, once for all runs."""
        topology = self._write(self._folder / "import.yaml", Setting(ALONE, 1, "none", 1, 0.0, 0.0, 0), "127.0.0.1:9")
        arguments = ("--from", "fashion-mnist", "--limit", str(self._conditions.images))
        importer = await Child.start("import", "archive", "import", str(topology), *arguments)
        if await importer.ended() != 0:
            raise RuntimeError(f"the import failed\n{importer.last_words()}")

    async def run(self, setting: Setting) -> dict[str, Any]:
        """Train as `setting` says, from the first epoch to the last, and say what it came to, or how it `failed`."""
        self._num_runs += 1
        folder = self._folder / f"run-{self._num_runs}"
        folder.mkdir()
        try:
            async with asyncio.timeout(self._conditions.patience_s), AsyncExitStack() as stack:
                members = await self._start(setting, folder, stack)
                for member in members:
                    await member.child.wait_for("train.finished")
        except ChildDied as error:
            return {"failed": str(error)}
        except TimeoutError:
            return {"failed": f"not done in {self._conditions.patience_s:.0f} s"}
        try:
            result = await asyncio.to_thread(self._result, members, setting.mode)
        except LookupError as error:  # one that missed a whole epoch, or whose checkpoint was gone too soon
            return {"failed": f"the logs do not tell all: {error!r}"}
        for state in folder.glob("edge-*/"):
            shutil.rmtree(state)
        return result

    async def _start(self, setting: Setting, folder: Path, stack: AsyncExitStack) -> list[Member]:
        """The archive node and all edges; the stack stops them."""
        attached = stack.enter_context(self._network.links(setting.edges, setting.link, setting.delay_s))
        limited = stack.enter_context(limits(setting.edges, self._conditions.cores))
        file = self._write(folder / "vault.yaml", setting, f"127.0.0.1:{self._port}")
        environment = {"XDG_STATE_HOME": str(folder / "vault"), "XDG_CACHE_HOME": str(folder / "vault")}
        vault = await Child.start(
            "vault", "run", str(file), "--node", "vault", environment=environment, log_file=folder / "vault.log"
        )
        stack.push_async_callback(vault.stop)
        await vault.wait_for("life.ready")
        members: list[Member] = []
        stack.push_async_callback(_stop_all, members)
        for i, (attachment, limit) in enumerate(zip(attached, limited, strict=True)):
            file = self._write(folder / f"edge-{i}.yaml", setting, attachment.bootstrap)
            state = folder / f"edge-{i}" / "state" / "edged" / f"edge-{i}" / "jobs" / self._job
            # A group's training starts when its members have found each other.
            start = "train.started" if setting.mode == ALONE else "exchange.begun"
            member = Member(attachment, limit, state, start)
            await member.start(i, file, folder)
            members.append(member)
        return members

    @property
    def _job(self) -> str:
        return f"run-{self._num_runs}"

    def _write(self, path: Path, setting: Setting, bootstrap: str) -> Path:
        conditions = self._conditions
        memory = max(round(1.1 * conditions.images * (SAMPLE_BYTES + ENTRY_OVERHEAD_BYTES)), 8 * MIB)
        exchange = _EXCHANGE.format(
            mode=setting.mode, compression=setting.compression, sync_every=setting.sync_every
        )  # fmt: skip
        reference = f"  reference_batch: {conditions.reference_batch}\n" if conditions.reference_batch else ""
        path.write_text(
            _TOPOLOGY.format(
                bootstrap=bootstrap, labels=LABELS, archive=(self._folder / "archive").as_uri(), job=self._job,
                edges="".join(_EDGE.format(i=i, memory=memory) for i in range(setting.edges)), model=DESIGNS_MODEL,
                seed=setting.seed, epochs=conditions.epochs, batch=conditions.batch, reference_batch=reference,
                learning_rate=conditions.learning_rate, momentum=MOMENTUM, warmup=conditions.warmup,
                exchange="" if setting.mode == ALONE else exchange, checkpoint=conditions.checkpoint_s,
            )
        )  # fmt: skip
        return path

    def _result(self, members: Sequence[Member], mode: str) -> dict[str, Any]:
        first = members[0]
        curve = list(first.watch.curve(self._test))
        weights = [weights_hash(member.watch.last()) for member in members]
        defects = [*_defects(members)]
        return {
            "epochs": _epochs(members, {point["epoch"]: point["accuracy"] for point in curve}), "curve": curve,
            "weights": weights, "same_weights": mode == ALONE or len(set(weights)) == 1, "defects": defects,
            **reached(curve, self._conditions.goal),
        }  # fmt: skip


@asynccontextmanager
async def site(folder: Path, conditions: Conditions, network: Network) -> AsyncIterator[Site]:
    """All that edges need, with the images in the archive."""
    with _broker(network) as broker:
        made = Site(folder, conditions, network, broker.port)
        await made.fill()
        yield made


async def _stop_all(members: Sequence[Member]) -> None:
    await asyncio.gather(*(member.stop() for member in members))


def weights_hash(state: state_module.TrainState) -> str:
    """Of all parameters' bits."""
    digest = hashlib.sha256()
    for name, param in sorted(state.params.items()):
        digest.update(name.encode() + param.tobytes())
    return digest.hexdigest()


def _defects(members: Sequence[Member]) -> Iterator[str]:
    for member in members:
        yield from (f"{member.child.name}: {line}" for line in member.child.noise)
        yield from (f"{member.child.name}: {line}" for line in member.child.lines if line["event"] in _BAD)


_BAD = DEFECTS | {"exchange.diverged", "exchange.log_lost", "exchange.rejected"}


def _epochs(members: Sequence[Member], accuracies: Mapping[int | None, float]) -> list[dict[str, Any]]:
    """The group's figures of each epoch by its first member's log, with the whole test set's accuracy, the time until
    the next epoch, and means over the members of what passed their links and of what they had in their caches. Members
    that train alone have samples of their own, which count together, in a time that is theirs on average."""
    first = members[0]
    exchanged = {line["epoch"]: line for line in first.child.seen("exchange.epoch")}
    hits = [[line["hit_ratio"] for line in member.child.seen("cache.epoch")] for member in members]
    result, ended_s = [], first.watch.started_s
    for i, line in enumerate(first.child.seen("train.epoch")):
        group = exchanged.get(line["epoch"], {})
        used = between([member.marks[i] for member in members], [member.marks[i + 1] for member in members])
        wall_s, ended_s = unix_s(line) - ended_s, unix_s(line)
        alone = [] if group else [member.child.seen("train.epoch")[i] for member in members]
        together = {"samples": sum(each["samples"] for each in alone)} if alone else {}
        if alone:
            together["seconds"] = statistics.mean(each["seconds"] for each in alone)
        result.append(
            {key: line[key] for key in _TRAIN_FIGURES}
            | together
            | {key: group.get(key) for key in _EXCHANGE_FIGURES}
            | used
            | {"hit_ratio": statistics.mean(each[i] for each in hits), "wall_s": wall_s}
            | {"test_accuracy": accuracies[line["epoch"] + 1]}
        )
    return result


_TRAIN_FIGURES = ("epoch", "samples", "samples_per_s", "seconds", "wait_fraction", "loss")
_EXCHANGE_FIGURES = ("steps", "step_ms", "comm_fraction", "bytes_per_step", "missed", "late", "advice")


def _broker(network: Network) -> Apache:
    port, listeners = free_port(), network.listeners
    advertised = {"PLAINTEXT": f"127.0.0.1:{port}", **listeners.advertised}
    protocols = ["CONTROLLER", *advertised]
    settings = {
        "advertised.listeners": ",".join(f"{name}://{address}" for name, address in advertised.items()),
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in protocols),
    }
    return Apache(settings, port=port, listeners=listeners.ports, host=listeners.host)
