"""A group of edges as real processes, held between two gradients wherever a test wants to inject a fault.

A gate before the broker of a `Group` holds the gradients of a step and of all later ones, so it waits at a known step
of a known epoch, however late the test is. The results of a run are read from the group's log, folded again as `edged
replay` does, and compared with the members' own checkpoints.
"""

import asyncio
import hashlib
import signal
from collections.abc import Iterable
from pathlib import Path

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.cli.demo.processes import Child
from edged.domain.group import state_json
from edged.domain.group import step as group_step
from edged.domain.group.replay import EpochBegun, NotCounted, Proof, Replay, StepApplied
from edged.domain.group.state import State
from edged.domain.nn import param_vector
from edged.domain.nn.model import Model
from edged.domain.topology import Topology
from edged.domain.training import checkpoint
from edged.domain.training.learner import Learner
from edged.domain.training.state import TrainState
from edged.ports import Message, TopicPartition
from tests.support.gradient_gate import GradientGate
from tests.support.site import Site, stopped

IMAGES = 1000
STEPS = -(-IMAGES // 64)
"""Of an epoch."""

MIDDLE = 5
"""The step of an epoch that counts as its middle: early enough for a fault before the epoch's end."""


class History:
    """A group's log, folded from its beginning."""

    def __init__(self, topology: Topology) -> None:
        [job] = topology.jobs
        resolved = topology.resolve(job)
        self.job = resolved.digest
        state = Learner(job, Model(resolved.input_shape, job.model, loss=job.loss)).initial(self.job)
        self.rules = group_step.rules(resolved, param_vector.size(state.params))
        self.partition = TopicPartition(resolved.train_topic)
        self.blobs: list[bytes] = []
        self.epochs: list[EpochBegun] = []
        self.steps: list[StepApplied] = []
        self.not_counted: list[NotCounted] = []
        self.digests = {0: digest(state)}
        """Of weights and optimizer state, by the number of updates."""
        self._topology = topology
        self._train_state = state
        self._replay = Replay(job, self.rules, state, State())

    @property
    def state(self) -> State:
        """What the log amounts to, as far as it was read."""
        return self._replay._group

    async def read_on(self) -> None:
        """Fold the records that are there now. Each epoch must begin with the weights that its proposer had."""
        async with outside(self._topology) as log:
            end = (await log.watermarks([self.partition]))[self.partition].high
            async with log.reader({self.partition: self.state.next_offset}) as reader:
                while self.state.next_offset < end:
                    for record in await reader.poll(max_records=100, timeout_s=1.0):
                        self._take(record.value, record.offset)

    def _take(self, blob: bytes, offset: int) -> None:
        self.blobs.append(blob)
        for event in self._replay.take(blob, offset):
            match event:
                case Proof():
                    assert event.holds, event
                case EpochBegun():
                    self.epochs.append(event)
                case StepApplied():
                    self.steps.append(event)
                    assert event.step + 1 not in self.digests, "a step was applied twice"
                    self.digests[event.step + 1] = digest(self._train_state)
                case NotCounted():
                    self.not_counted.append(event)

    def contributors(self, step: int) -> tuple[str, ...]:
        """The edges whose gradients were summed in the step."""
        [applied] = [each for each in self.steps if each.step == step]
        return tuple(each.edge for each in applied.contributions)

    def missed(self, edge: str, since: int) -> list[int]:
        """The steps from `since` on that were closed without the edge although it was expected."""
        return [each.step for each in self.steps if each.step >= since and edge in each.missing]


class FreeGroup:
    """The edges of a site with an exchange, and its archive node, which nothing holds."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.names = tuple(edge.name for edge in site.loaded().edges)
        self.history = History(site.loaded())
        self.replays_from: Path | None = None
        """The checkpoint that `edged replay` needs when the log's beginning is deleted."""
        self.vault: Child
        self.edges: dict[str, Child] = {}

    async def start(self) -> None:
        """Import the images and start all nodes."""
        await self.site.import_fashion(IMAGES, test_limit=100)
        await self.start_vault()
        for name in self.names:
            self.edges[name] = await self.site.start("run", name)

    async def start_vault(self) -> None:
        self.vault = await self.site.start("run", "vault")

    async def kill_vault(self) -> None:
        """As `kill`, the archive node."""
        self.vault.signal(signal.SIGKILL)
        assert await self.vault.ended() == -signal.SIGKILL

    async def kill(self, name: str) -> None:
        """As a power cut would: what has not passed the gate is lost."""
        self.edges[name].signal(signal.SIGKILL)
        assert await self.edges[name].ended() == -signal.SIGKILL

    async def append(self, blobs: Iterable[bytes], topic: str | None = None) -> None:
        """Write to the group's log, or this topic, as a client outside the group."""
        async with outside(self.site.loaded()) as log:
            await log.append([Message(topic or self.history.partition.topic, blob) for blob in blobs])

    def assert_alike(self) -> None:
        """No step was skipped or applied twice, and each member's checkpoint has the weights that the log leads to."""
        steps = [each.step for each in self.history.steps]
        assert steps == list(range(steps[0], steps[0] + len(steps)))
        for name in self.names:
            state = newest_checkpoint(self.site, name)
            step = state_json.from_json(state.exchange).step
            assert state.position.step == step
            assert digest(state) == self.history.digests[step], name

    async def stop(self) -> None:
        """Stop all in the middle of their work; the log proves each member's last weights, as `edged replay` does."""
        for edge in self.edges.values():
            await stopped(edge)
        await self.history.read_on()
        self.assert_alike()
        proofs = [word for name in self.names for word in ("--prove", str(self.site.state(name)))]
        begin = [] if self.replays_from is None else ["--from", str(self.replays_from)]
        await self.site.edged("replay", str(self.site.topology), *begin, *proofs)


class Group(FreeGroup):
    """A group behind a gate. Hold all of them before injecting a fault."""

    def __init__(self, site: Site, gate: GradientGate) -> None:
        super().__init__(site)
        self.gate = gate

    async def start(self, held: int | None = None) -> None:
        """As a free group, and wait until this many members, or all, are held with a gradient."""
        self.gate.hold_from(0)
        await super().start()
        await self.held(held)

    async def held(self, members: int | None = None) -> None:
        """Wait until this many members, or all, are held with a gradient."""
        waiting = asyncio.ensure_future(asyncio.to_thread(self.gate.wait_until_held, members or len(self.names)))
        living = [child for child in (self.vault, *self.edges.values()) if child.exit_code is None]
        ends = {asyncio.ensure_future(child.ended()): child for child in living}
        await asyncio.wait([waiting, *ends], return_when=asyncio.FIRST_COMPLETED)
        for end, child in ends.items():
            assert not end.done(), f"{child.name} ended\n{child.last_words()}"
            end.cancel()

    async def go_to(self, step: int, members: int | None = None, *, part: int = 0) -> None:
        """Let this many members, or all, train up to this step, or to this part of it, where they are held again."""
        self.gate.hold_from(step, part)
        await self.held(members)
        await self.history.read_on()

    async def reach_middle(self) -> int:
        """Train up to the next middle of an epoch, unless it is there already; returns the present step."""
        await self.history.read_on()
        state = self.history.state
        middle = state.epoch_first_step + MIDDLE
        await self.go_to(middle if state.step <= middle else middle + STEPS)
        return self.history.state.step

    async def halfway(self) -> list[str]:
        """Wait until gradients or an update are in the log in part, and return their authors."""
        while not self.history.state.pending:
            await self.history.read_on()
        return list(self.history.state.pending)

    async def restart(self, name: str, held: int | None = None) -> Child:
        """Start it again and wait until `held` members, or all, are held with their next gradient."""
        self.edges[name] = await self.site.start("run", name)
        await self.edges[name].wait_for("exchange.joined")
        await self.held(held)
        return self.edges[name]

    async def assert_all_continue(self) -> None:
        """Train to the middle of the next epoch but one; all must contribute to each of its steps.

        All are held before each of its steps, so that none is closed early because the machine is busy.
        """
        for _ in range(2):
            await self.go_to(self.history.state.end_step)
        [*_, begun] = self.history.epochs
        steps = range(begun.step, begun.step + MIDDLE)
        for step in steps:
            await self.go_to(step + 1)
        assert [self.history.contributors(step) for step in steps] == [self.names] * MIDDLE
        for name in self.names:
            await self.edges[name].wait_for("exchange.begun", epoch=begun.epoch)
        self.assert_alike()

    async def stop(self) -> None:
        self.gate.open()
        await super().stop()


def newest_checkpoint(site: Site, name: str) -> TrainState:
    """The edge's newest checkpoint on its disk."""
    return checkpoint.decode(newest_file(site, name).read_bytes())


def newest_file(site: Site, name: str) -> Path:
    """The file of its newest checkpoint."""
    return max(site.state(name).glob("checkpoint-*.safetensors"))


def digest(state: TrainState) -> str:
    """The SHA-256 of weights and optimizer state."""
    sha = hashlib.sha256(param_vector.digest(state.params).encode())
    for slot in sorted(state.slots):
        sha.update(slot.encode() + param_vector.digest(state.slots[slot]).encode())
    return sha.hexdigest()


def outside(topology: Topology) -> KafkaLog:
    """A connection that the gate lets through."""
    return KafkaLog(topology.kafka, RecordingHealth(), client_id=GradientGate.OUTSIDER)
