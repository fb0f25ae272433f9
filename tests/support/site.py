"""A whole site for a test: a topology file, a data set in the archive, and nodes as real processes.

Nodes are children that log JSON; tests wait for what they log, never for time to pass. Where a fault must last, its
length is counted in a node's `res.sample` lines, of which there are more here than the usual one a second.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from edged.adapters.datasets.registry import open_dataset
from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.parquet.store import ParquetStore
from edged.app.objects import open_archive
from edged.cli.demo.observer import archived_samples, observe
from edged.cli.demo.processes import Child, LogLine
from edged.domain.topology import Topology
from edged.ports import TopicPartition, Watermarks
from edged.services.archive import importer
from edged.topology_file import inspect, load
from tests.support.forked import FORKED, start_forked
from tests.support.kernels import chosen_setting
from tests.support.secured import SecuredKafka

FASHION = "[t-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, boot]"

TOPOLOGY = """\
schema: 1
site: {site}
kafka: {kafka}
{mqtt}streams:
  fashion:
    sample: {{shape: [28, 28, 1], dtype: uint8}}
    labels: {labels}
iot:
  - {{name: cam-01, edge: pi-a, stream: fashion, codec: raw{transport}}}
  - {{name: cam-02, edge: pi-a, stream: fashion, codec: png{transport}}}
  - {{name: cam-03, edge: pi-a, stream: fashion, codec: jpeg{transport}}}
edges: [{edges}]
archive: [{archive}]
training:
  stream: fashion
  model: {model}
  source: {source}
  epochs: {epochs}
  global_batch: 64
  micro_batch: 8
  kernels: {kernels}
  checkpoint: {checkpoint}
  optimizer: {{sgd: {{learning_rate: 0.05, momentum: 0.9}}}}
  deploy: {{format: {deploy}}}
  {more}
"""
EDGE = "{{name: {name}, {edge}prefetch: 4MiB, memory_limit: 400MiB}}"
DEVICES = ("cam-01", "cam-02")
DEFECTS = frozenset(
    {"life.crashed", "life.abandoned", "res.stalled", "log.foreign", "uplink.malformed", "epoch.malformed"}
    | {
        "kafka.another_log",
        "uplink.another_log",
        "kafka.gap",
        "archive.gap",
        "archive.rejected",
        "archive.unreadable",
        "archive.bad_request",
    }
    | {"ingest.rejected", "checkpoint.failed", "checkpoint.skipped", "train.diverged", "epoch.redrawn"}
    | {"exchange.diverged", "exchange.withheld"}
)
"""Events that none of the faults here excuses."""

SAMPLE_S = 0.2
"""Time between two `res.sample` lines of a node."""

_STARVED_SAMPLES = round(1 / SAMPLE_S)
"""Lines of `res.sample`, one after the other, that show nothing but waiting: no answer comes as late by itself."""

_PATIENCE_SAMPLES = round(60 / SAMPLE_S)
"""Lines of `res.sample` within which what is on its way must have arrived."""

Place = tuple[str, int, int]
"""A sample by device, partition and offset."""

SMALL_MODEL = "[conv2d: {filters: 8, kernel: 3, activation: relu}, max_pool2d: 2, flatten, dense: 10]"
DESIGNS_MODEL = (
    "[conv2d: {filters: 32, kernel: 3, activation: relu}, max_pool2d: 2, "
    "conv2d: {filters: 64, kernel: 3, activation: relu}, max_pool2d: 2, flatten, dense: 10]"
)


class Site:
    """One topology file and the processes started from it. `broker`: an address, or several with commas between them.

    On a secured Kafka each node logs in as itself, and has no rights but those that the test grants. `forks`: whether
    nodes are forked from a process that has imported edged; not where their memory is measured. With the setting
    `mqtt`, a broker's address, the devices speak it; `place`: the keys of the archive's place, by default a folder.
    """

    def __init__(self, folder: Path, broker: str | SecuredKafka, **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.archive_folder = folder / "archive"
        self.topology = folder / "topology.yaml"
        self.children: list[Child] = []
        self.forks = True
        self.more_environment: Mapping[str, str] = {}
        self._secured = broker if isinstance(broker, SecuredKafka) else None
        self._kafka = (
            broker.section() if isinstance(broker, SecuredKafka) else f"{{bootstrap: {json.dumps(broker.split(','))}}}"
        )
        self._settings: dict[str, Any] = {"source": "archive", "epochs": 3, "checkpoint": "5min", "flush": "1s"}
        self._settings |= {"mqtt": None, "model": SMALL_MODEL, "deploy": "float32", "edge": "", "more": ""}
        self._settings |= {"edges": ("pi-a",), "vaults": ("vault",), "timing": {}, "kernels": chosen_setting()}
        self._settings |= {"place": f'url: "{self.archive_folder.as_uri()}"'}
        self.configure(**{"site": "greenhouse", **settings})
        self.archive().create(self._settings["site"])

    def configure(self, **settings: Any) -> None:
        """Write the topology file, changed by these settings: the next process to start has them."""
        self._settings |= settings
        vault = f"{self._settings['place']}, flush: {self._settings['flush']}"
        archive = ", ".join(f"{{name: {name}, {vault}}}" for name in self._settings["vaults"])
        edges = ", ".join(EDGE.format(name=name, edge=self._settings["edge"]) for name in self._settings["edges"])
        mqtt = self._settings["mqtt"]
        values = {**self._settings, "edges": edges, "transport": ", transport: mqtt, id: counter" if mqtt else ""}
        values["archive"] = archive
        values["mqtt"] = f'mqtt: {{broker: "{mqtt}"}}\n' if mqtt else ""
        self.topology.write_text(TOPOLOGY.format(kafka=self._kafka, labels=FASHION, **values))

    def environment(self, name: str) -> Mapping[str, str]:
        """State and cache folders below the site's; the log checks itself against its schema."""
        return {
            "XDG_STATE_HOME": str(self.folder / name / "state"),
            "XDG_CACHE_HOME": str(self.folder / name / "cache"),
            "EDGED_STRICT_LOG": "1",
            **self.more_environment,
            "EDGED_TIMING": json.dumps({"sample_s": SAMPLE_S, **self._settings["timing"]}),
            **(self._secured.environment(name) if self._secured else {}),
        }

    def state(self, node: str) -> Path:
        """Where the node keeps its checkpoints."""
        return self.folder / node / "state" / "edged" / node

    def loaded(self) -> Topology:
        """The topology, as the nodes read it; of a secured Kafka, with its administrator's way in."""
        if self._secured is None:
            return load(self.topology)
        return replace(inspect(self.topology, lenient=True).topology, kafka=self._secured.admin_kafka)

    async def printed(self) -> str:
        """What `edged topics` prints: the commands that make the topics and grant the rights."""
        return await self.edged("topics", str(self.topology))

    async def start(self, command: str, node: str, *arguments: str) -> Child:
        """`edged COMMAND topology.yaml --node NODE …` as a process."""
        words = (command, str(self.topology), "--node", node, *arguments)
        environment = self.environment(node)
        if self.forks and "LD_PRELOAD" not in environment:
            child = await start_forked(f"{command} {node}", *words, environment=environment)
        else:
            child = await Child.start(f"{command} {node}", *words, environment=environment)
        self.children.append(child)
        return child

    async def start_nodes(self) -> list[Child]:
        """The archive node, the edge and its companion."""
        return [await self.start("run", "vault"), await self.start("run", "pi-a"), await self.start("infer", "pi-a")]

    async def start_sensors(self, rate: float) -> list[Child]:
        """Both devices, each publishing `rate` real images a second until it is stopped."""
        source = ("--from", "fashion-mnist-small", "--loop", "--rate", str(rate))
        return [await self.start("sensor", device, *source) for device in DEVICES]

    async def edged(self, *arguments: str, expect: int = 0) -> str:
        """Run another edged command, as on the archive node, to its end; its standard output."""
        process = await asyncio.create_subprocess_exec(
            FORKED, *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **self.environment("vault")},
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == expect, f"{arguments}: {process.returncode}\n{out.decode()}\n{err.decode()}"
        return out.decode()

    async def import_fashion(self, limit: int, test_limit: int = 500) -> None:
        """Load the packaged images straight into the archive, as `edged archive import` would."""
        dataset, store = open_dataset("fashion-mnist-small"), self.archive()

        def load(split: str, most: int) -> None:
            for portion in importer.portions(dataset, dataset.name, split, test_fraction=0, seed=0, limit=most):
                importer.import_portion(
                    store, self.loaded().stream("fashion"), dataset, portion, on_progress=lambda _: None
                )

        for split, most in (("train", limit), ("test", test_limit)):
            await asyncio.to_thread(load, split, most)

    async def serve(self, images: int = 500) -> tuple[Child, Child, Child]:
        """Import some images and start vault, pi-a and its companion; all training is done and the model served."""
        await self.import_fashion(images, test_limit=100)
        vault, edge, companion = [
            await self.start(command, node) for command, node in (("run", "vault"), ("run", "pi-a"), ("infer", "pi-a"))
        ]
        await edge.wait_for("train.finished")
        await edge.wait_for("ingest.reading")
        await companion.wait_for("infer.model_loaded")
        return vault, edge, companion

    async def published(self) -> list[Place]:
        """Every sample in the devices' topics."""
        topics = {TopicPartition(self.loaded().device_topic(device)): device for device in DEVICES}
        marks = await self._watermarks(topics)
        return [(topics[each], each.partition, n) for each in topics for n in range(marks[each].high)]

    def archive(self) -> ParquetStore:
        """The archive, as a command opens it."""
        return open_archive(self.loaded())

    def archived(self) -> list[Place]:
        """Every sample of a device in the archive's files, as often as it is there."""
        return sorted((each.device, each.partition, each.offset) for each in archived_samples(self.loaded()))

    async def predicted(self) -> list[Place]:
        """Every sample in the predictions topic, as often as it is there."""
        async with observe(self.loaded()) as site:
            return sorted((each.device, each.partition, each.offset) for each in await site.predictions("pi-a"))

    async def assert_each_archived_once(self, vault: Child) -> None:
        """Wait until as much is archived as was published: it is that, once each, in whole files."""
        published, store = await self.published(), self.archive()

        async def enough() -> bool:
            sources = store.summaries("fashion")
            return sum(each.samples for each in sources if each.source == "pi-a") >= len(published)

        await eventually(enough, vault)
        assert_each_once(self.archived(), published)
        await self.edged("archive", "verify", str(self.topology))

    async def assert_each_predicted_once(self, companion: Child) -> None:
        """Wait until as much is predicted as was published, then stop the companion: it is that, once each."""
        published = await self.published()
        predictions = TopicPartition(self.loaded().predictions_topic("pi-a"))

        async def enough() -> bool:
            return (await self._watermarks([predictions]))[predictions].high >= len(published)

        await eventually(enough, companion)
        await stopped(companion)
        assert_each_once(await self.predicted(), published)

    async def _watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Watermarks]:
        async with KafkaLog(self.loaded().kafka, RecordingHealth()) as log:
            return await log.watermarks(partitions)


def own_name(folder: Path) -> str:
    """A name for the site of one test: workers share a broker, and a test's folder is unique in its worker only."""
    return f"{folder.parent.name}-{folder.name}"[-60:].lstrip("-_")


def assert_each_once(found: Sequence[Place], published: Sequence[Place]) -> None:
    """All that was published is found, and found once."""
    twice = [place for place, times in Counter(found).items() if times > 1]
    lost = sorted(set(published).difference(found))
    assert (twice, lost) == ([], []), f"twice: {twice}\nlost: {lost}"
    assert len(found) == len(published)


async def eventually(condition: Callable[[], Awaitable[bool]], node: Child) -> None:
    """Ask at each of the node's `res.sample` lines whether the condition holds; it must within a minute of them."""
    for _ in range(_PATIENCE_SAMPLES):
        if await condition():
            return
        await following(node, "res.sample")
    raise AssertionError(f"it never came to it\n{node.last_words()}")


async def following(child: Child, event: str, times: int = 1, **fields: Any) -> LogLine:
    """The n-th line with this event and these fields that comes after those seen by now.

    For what comes again and again, or is set off after the call: how late this is called is up to the machine.
    """
    return await child.wait_for(event, len(child.seen(event, **fields)) + times, **fields)


async def starved(edge: Child) -> None:
    """Return when the edge has trained, in its present epoch, all that it holds, and waits for the archive.

    Something must hold the archive's answers back for as long.
    """

    def is_starved(lines: Iterable[LogLine]) -> bool:
        samples: list[LogLine] = []
        for line in lines:
            if line["event"] == "train.epoch":
                samples.clear()
            elif line["event"] == "res.sample":
                samples.append(line)
        has_trained = any(line.get("trained_samples_per_s") for line in samples)  # the first has no rates
        newest = samples[-_STARVED_SAMPLES:]
        waits = [line.get("wait_fraction", 0.0) > 0.99 for line in newest]
        return has_trained and len(waits) == _STARVED_SAMPLES and all(waits)

    await edge.until(is_starved, "it waited for the archive", before="train.finished")


async def stopped(child: Child) -> None:
    """Stop it with SIGTERM; it ends by itself, with exit code 0.

    Not before it listens to signals, which takes seconds on a slow machine: a sensor does when it logs its first line.
    """
    is_sensor = child.name.startswith("sensor")
    ready = {"life.ready", "res.sample"}
    await child.until(lambda lines: any(is_sensor or line["event"] in ready for line in lines), "it was ready")
    assert await child.stop() == 0, child.last_words()


async def at_work(child: Child, rate: str) -> None:
    """Wait for a `res.sample` line in which this rate is not zero."""
    await child.until(lambda lines: any(line.get(rate) for line in lines), f"{rate} rose")


def moment(line: LogLine) -> datetime:
    """When the line was logged."""
    return datetime.fromisoformat(line["ts"])


async def degraded(child: Child, part: str, since: datetime, *, before: str | None = None) -> None:
    """Wait until the node says that the part does not answer, and hold it to the 10 s that users are promised."""
    line = await child.wait_for("health.degraded", part=part, before=before)
    assert moment(line) - since < timedelta(seconds=10), f"{child.name}: {line}"


async def until_archived(vault: Child, samples: int) -> None:
    """Wait until the archive holds this many samples of the edges."""
    await vault.until(
        lambda lines: sum(line["samples"] for line in lines if line.get("event") == "archive.flushed") >= samples,
        f"{samples} samples were archived",
    )


@asynccontextmanager
async def running(site: Site, excused: Iterable[str] = ()) -> AsyncIterator[Site]:
    """Stops all children that are still there at the end, at once. After a passed test all ended well, without defects.

    `excused`: events that are none in this test.
    """
    try:
        yield site
        await asyncio.gather(*(stopped(child) for child in site.children if child.exit_code is None))
        unexcused = DEFECTS.difference(excused)
        for child in reversed(site.children):
            defects = [*child.noise, *(str(line) for line in child.lines if line["event"] in unexcused)]
            assert not defects, "\n".join([child.name, *defects])
    finally:
        await asyncio.gather(*(child.stop() for child in site.children if child.exit_code is None))
