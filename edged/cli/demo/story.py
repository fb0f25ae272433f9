"""What the demo does, in order: broker, archive, import, edges, companions, devices, the end; and its figures.

Everything runs as real processes from one topology file, in one folder. The figures are counted from the archive's
files and the predictions topic, not from what the processes say of themselves.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from edged.adapters.embedded_broker import EmbeddedBroker
from edged.cli.demo import evidence, report, topology_file
from edged.cli.demo.children import Child, ChildDied
from edged.cli.demo.display import Display
from edged.cli.demo.material import Material
from edged.config_yaml import load
from edged.domain.prediction import Prediction
from edged.domain.topology import Topology


@dataclass(frozen=True, slots=True)
class Options:
    """The command's options. `live`: samples that each device publishes; `rate`: how many of them a second."""

    folder: Path
    material: Material
    epochs: int
    edges: int
    live: int
    rate: float
    broker: str | None


async def tell(options: Options) -> report.Summary:
    """Run the demo; its figures. Raises ChildDied when a process fails, and LogUnavailable when no broker answers.

    Cancellation stops all processes first.
    """
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        bootstrap = options.broker or (await stack.enter_async_context(EmbeddedBroker())).bootstrap
        topology = _write_topology(options, bootstrap)
        observer = await stack.enter_async_context(evidence.observer(topology))
        await observer.reach()
        if options.broker is not None:
            stack.push_async_callback(observer.delete_topics)
        story = _Story(options, topology)
        story.display.show(file_of(options))
        async with _guarded(story):
            await story.import_images()
            await story.start_nodes()
            await story.train_while_devices_publish()
            predictions = [
                each
                for edge in topology.edges
                for each in await observer.predictions(edge.name, published=2 * options.live)
            ]
            await story.wait_until_archived(await observer.num_dead_letters(story.edges))
        return await _summary(story, observer, predictions, time.monotonic() - began)


def file_of(options: Options) -> Path:
    """Where the topology file is."""
    return options.folder / "topology.yaml"


def _write_topology(options: Options, bootstrap: str) -> Topology:
    dataset = options.material.dataset
    plan = topology_file.Plan(
        site=f"demo-{secrets.token_hex(3)}",
        bootstrap=bootstrap,
        archive_folder=options.folder / "archive",
        stream=topology_file.stream_name(dataset.name),
        shape=dataset.shape or topology_file.IMAGE_SHAPE,
        labels=dataset.labels,
        num_training=options.material.num_training,
        edges=options.edges,
        epochs=options.epochs,
        images=dataset.shape is None,
    )
    file_of(options).write_text(topology_file.text(plan), encoding="utf-8")
    return load(file_of(options))


@asynccontextmanager
async def _guarded(story: "_Story") -> AsyncIterator[None]:
    """Ends the story when a child dies that was not asked to, and stops all children at its end."""
    try:
        async with asyncio.TaskGroup() as group:
            guard = group.create_task(story.watch(), name="guard")
            yield
            guard.cancel()
    except* ChildDied as failures:
        raise failures.exceptions[0] from None
    finally:
        story.display.close()
        await story.stop()


class _Story:
    """The processes, and what they are told to do."""

    def __init__(self, options: Options, topology: Topology) -> None:
        self.options = options
        self.material = options.material
        self.topology = topology
        self.edges = [edge.name for edge in topology.edges]
        self.devices = [device.name for device in topology.iot]
        self.display = Display(
            epochs=options.epochs,
            num_training=self.material.num_training,
            edges=options.edges,
            num_live=options.live * len(self.devices),
        )
        self._file = str(file_of(options))
        self._children: dict[str, Child] = {}
        self._stopping = False
        self._child_ended = asyncio.Event()

    def child(self, command: str, node: str) -> Child:
        """The process `edged COMMAND --node NODE`."""
        return self._children[f"{command} {node}"]

    @property
    def children(self) -> Sequence[Child]:
        """All processes, in the order of their start."""
        return tuple(self._children.values())

    async def watch(self) -> None:
        """Raise ChildDied as soon as a child ends with an error."""
        while True:
            await self._child_ended.wait()
            self._child_ended.clear()
            for child in self.children:
                if child.exit_code not in {None, 0} and not self._stopping:
                    raise ChildDied(f"{child.name} ended with exit code {child.exit_code}\n{child.last_words()}")

    async def import_images(self) -> None:
        """Load training and test images straight into the archive, but for those that will come live."""
        self.display.say(f"{self.material.num_training:,} training images are imported into the archive.")
        for number, arguments in enumerate(self.material.imports()):
            await (await self._start(f"import {number}", "archive", "import", self._file, *arguments)).ended()

    async def start_nodes(self) -> None:
        """The archive, the edges and their companions. Training begins as soon as they are connected."""
        await self._node("run", "vault")
        for edge in self.edges:
            await self._node("run", edge)
            await self._node("infer", edge)
        nodes = [child for child in self.children if child.name.startswith(("run ", "infer "))]
        for child in nodes:
            await child.wait_for("life.ready")
        self.display.say("The nodes run, each a process:")
        for child in nodes:
            self.display.say(f"  edged {child.name} (pid {child.pid})")

    async def train_while_devices_publish(self) -> None:
        """Once a model is served the devices begin; wait until all is published and trained."""
        for edge in self.edges:
            await self.child("infer", edge).wait_for("infer.model_loaded")
        if self.options.live:
            await self._publish()
        else:
            self.display.say("The first model is served; with --live 0 no device publishes.")
        for edge in self.edges:
            await self.child("run", edge).wait_for("train.finished")

    async def _publish(self) -> None:
        self.display.say(f"The first model is served; {', '.join(self.devices)} begin to publish.")
        live = self.options.live
        for number, device in enumerate(self.devices):
            what = self.material.publication(skip=number * live)
            await self._node("sensor", device, *what, "--count", str(live), "--rate", str(self.options.rate))
        for device in self.devices:
            await self.child("sensor", device).ended()

    async def wait_until_archived(self, num_dead_letters: int) -> None:
        """Wait until the archive has written as many samples as were published, but for the dead letters."""
        wanted = self.options.live * len(self.devices) - num_dead_letters
        await self.child("run", "vault").until(
            lambda lines: sum(line["samples"] for line in lines if line.get("event") == "archive.flushed") >= wanted
        )

    async def stop(self) -> None:
        """Stop every process, the last started first. Free when they have ended."""
        self._stopping = True
        for child in reversed(self.children):
            if child.exit_code is None:
                await child.stop()

    async def _node(self, command: str, node: str, *arguments: str) -> Child:
        return await self._start(f"{command} {node}", command, self._file, "--node", node, *arguments)

    async def _start(self, name: str, *arguments: str) -> Child:
        child = await Child.start(
            name,
            *arguments,
            environment={
                "XDG_STATE_HOME": str(self.options.folder / "state"),
                "XDG_CACHE_HOME": str(self.options.folder / "cache"),
            },
            log_file=self.options.folder / f"{name.replace(' ', '-')}.log",
            on_line=self.display.on_line,
            on_end=self._child_ended.set,
        )
        self._children[name] = child
        return child


async def _summary(
    story: _Story, observer: evidence.Observer, predictions: Sequence[Prediction], wall_s: float
) -> report.Summary:
    samples = list(evidence.archived_samples(story.topology))
    epochs = {edge: story.child("run", edge).seen("train.epoch") for edge in story.edges}
    lines = [line for of_edge in epochs.values() for line in of_edge]
    archived, archived_twice = report.distinct((each.device, each.partition, each.offset) for each in samples)
    predicted, predicted_twice = report.distinct(each.identity for each in predictions)
    label_of = {(each.device, each.partition, each.offset): each.label for each in samples}
    right = [label_of.get((each.device, each.partition, each.offset)) == each.label for each in predictions]
    latencies = [each.latency_ms for each in predictions]
    ends = {child.name: child.seen("life.stopped") for child in story.children}
    accuracies = [of_edge[-1].get("test_accuracy") for of_edge in epochs.values()]
    sensors = [child for child in story.children if child.name.startswith("sensor ")]
    return report.Summary(
        edges=len(story.edges),
        test_accuracy=min((each for each in accuracies if each is not None), default=None),
        samples_per_s=sum(fmean(line["samples_per_s"] for line in of_edge) for of_edge in epochs.values()),
        data_wait_fraction=fmean(line["wait_fraction"] for line in lines),
        peak_rss_mib={name: end[-1]["peak_rss_bytes"] / 2**20 for name, end in ends.items() if end},
        published=sum(sensor.seen("sensor.published")[-1]["samples"] for sensor in sensors),
        archived=archived,
        archived_twice=archived_twice,
        predicted=predicted,
        predicted_twice=predicted_twice,
        dead_lettered=await observer.num_dead_letters(story.edges),
        prediction_p50_ms=report.percentile(latencies, 50),
        prediction_p99_ms=report.percentile(latencies, 99),
        live_accuracy=fmean(right) if right else None,
        epochs=story.options.epochs,
        trained_samples=sum(line["samples"] for line in lines),
        import_samples=story.material.num_training,
        wall_s=wall_s,
    )
