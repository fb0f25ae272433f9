"""The demo's processes, all in one folder and from one topology file: started, waited for, stopped.

See also: `scenario` for the order in which that happens.
"""

import asyncio
import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edged.cli.demo.display import Display
from edged.cli.demo.images import DemoImages
from edged.cli.demo.processes import Child, ChildDied
from edged.domain.archive.snapshot import TRAIN_SOURCE
from edged.domain.counted import counted
from edged.domain.topology import Topology
from edged.ports import LeftOut
from edged.settings import Folders


@dataclass(frozen=True, slots=True)
class Options:
    """The command's options. `live`: samples that each device publishes; `rate`: how many of them a second.

    `kill`: the edge that dies for a while; empty for none. `security`: of the broker, as in a topology; may be empty.
    `mqtt`: whether the devices speak it. `archive`: "file", "hdfs" or "s3".
    """

    folder: Path
    images: DemoImages
    epochs: int
    edges: int
    live: int
    rate: float
    broker: str | None
    kill: str = ""
    security: str = ""
    site: str = "demo"
    mqtt: bool = False
    archive: str = "file"


def file_of(options: Options) -> Path:
    """Where the topology file is."""
    return options.folder / "topology.yaml"


class Site:
    """The processes of the site, and the steps of the demo."""

    def __init__(self, options: Options, topology: Topology) -> None:
        self.options = options
        self.images = options.images
        self.topology = topology
        self.edges = [edge.name for edge in topology.edges]
        self.devices = [device.name for device in topology.iot]
        self.display = Display(
            epochs=options.epochs,
            num_training=self.images.num_training,
            edges=options.edges,
            num_live=options.live * len(self.devices),
        )
        self._file = str(file_of(options))
        self._environment = {
            "XDG_STATE_HOME": str(options.folder / "state"),
            "XDG_CACHE_HOME": str(options.folder / "cache"),
        }
        self._children: dict[str, Child] = {}
        self._stopping = False
        self.num_imported = 0
        """Training images in the archive."""
        self._child_ended = asyncio.Event()

    def child(self, command: str, node: str) -> Child:
        """The process `edged COMMAND --node NODE`."""
        return self._children[f"{command} {node}"]

    @property
    def children(self) -> Sequence[Child]:
        """All processes, in the order of their start."""
        return tuple(self._children.values())

    @property
    def state_folders(self) -> dict[str, Path]:
        """Where each edge's checkpoints are."""
        return {edge: Folders.of(edge, self._environment).state for edge in self.edges}

    async def watch(self) -> None:
        """Raise ChildDied as soon as a child ends with an error."""
        while True:
            await self._child_ended.wait()
            self._child_ended.clear()
            for child in self.children:
                if child.exit_code not in {None, 0} and not self._stopping:
                    raise _died(child)

    async def import_images(self) -> None:
        """Load training and test images straight into the archive, but for those that will come live."""
        self.display.write(f"{counted(self.images.num_training, 'training image')} are imported into the archive.")
        child = await self._start("import", "archive", "import", self._file, *self.images.import_arguments())
        if await child.ended() != 0:
            raise _died(child)
        account = json.loads(child.stdout)
        self.num_imported = next(
            each["samples"] for each in account["sources"] if each["source"].startswith(TRAIN_SOURCE)
        )
        for each in account["left_out"]:
            self.display.write(f"  left out: {LeftOut(each['reason'], each['count'], tuple(each['first']))}")

    async def start_nodes(self) -> None:
        """The archive, the edges and their companions. Training begins as soon as they are connected."""
        await self._node("run", "vault")
        for edge in self.edges:
            await self._node("run", edge)
            await self._node("infer", edge)
        nodes = [child for child in self.children if child.name.startswith(("run ", "infer "))]
        for child in nodes:
            await child.wait_for("life.ready")
        self.display.write("The nodes run, each a process:")
        for child in nodes:
            self.display.write(f"  edged {child.name} (pid {child.pid})")

    async def publish(self) -> None:
        """Once a model is served the devices begin; wait until all is published."""
        for edge in self.edges:
            await self.child("infer", edge).wait_for("infer.model_loaded")
        if self.options.live:
            await self._publish()
        else:
            self.display.write("The first model is served; with --live 0 no device publishes.")

    async def wait_until_trained(self) -> None:
        """Wait until all edges have trained all epochs."""
        for edge in self.edges:
            await self.child("run", edge).wait_for("train.finished")

    async def _publish(self) -> None:
        self.display.write(f"The first model is served; {', '.join(self.devices)} begin to publish.")
        live, rate = str(self.options.live), str(self.options.rate)
        for number, device in enumerate(self.devices):
            what = self.images.publication(number)
            await self._node("sensor", device, *what, "--count", live, "--rate", rate)
        for device in self.devices:
            await self.child("sensor", device).ended()

    async def wait_until_archived(self, num_dead_letters: int) -> None:
        """Wait until the archive has written as many samples as were published, but for the dead letters."""
        wanted = self.options.live * len(self.devices) - num_dead_letters
        await self.child("run", "vault").until(
            lambda lines: sum(line["samples"] for line in lines if line.get("event") == "archive.flushed") >= wanted
        )

    async def kill(self, edge: str) -> None:
        """End the edge's process at once, by SIGKILL, as a power cut would; `restart` it before anything else."""
        child = self._children.pop(f"run {edge}")
        child.signal(signal.SIGKILL)
        await child.ended()
        self.display.write(f"{edge} was killed in the middle of an epoch (SIGKILL, pid {child.pid}).")

    async def restart(self, edge: str) -> Child:
        """Start the edge again, in the same folders."""
        child = await self._node("run", edge)
        self.display.write(f"The others have gone on; {edge} is started again (pid {child.pid}).")
        return child

    async def stop(self) -> None:
        """Stop every process, the last started first. Free when they have ended."""
        self._stopping = True
        for child in reversed(self.children):
            if child.exit_code is None:
                await child.stop()

    async def _node(self, command: str, node: str, *arguments: str) -> Child:
        return await self._start(f"{command} {node}", command, self._file, "--node", node, *arguments, node=node)

    async def _start(self, name: str, *arguments: str, node: str = "vault") -> Child:
        child = await Child.start(
            name,
            *arguments,
            environment={**self._environment, "NODE": node},
            log_file=self.options.folder / f"{name.replace(' ', '-')}.log",
            on_line=self.display.on_line,
            on_end=self._child_ended.set,
        )
        self._children[name] = child
        return child


def _died(child: Child) -> ChildDied:
    return ChildDied(f"{child.name} ended with exit code {child.exit_code}\n{child.last_words()}")
