"""A small world for tests of groups: one log, one archive, and several edges that train one model."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from edged.adapters.memory.checkpoints import MemoryCheckpoints
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.lane_clock import ScriptedLaneClock
from edged.app.group import member_trainer
from edged.domain.archive import protocol
from edged.domain.archive.protocol import SamplesPart, SnapshotRequest
from edged.domain.group import compression, records
from edged.domain.group.records import Part
from edged.domain.group.state import Rules
from edged.domain.nn.backend import Backend
from edged.domain.nn.model import Model
from edged.domain.topology import Exchange, Sampling, Training
from edged.domain.topology.job import job_digest
from edged.domain.training.state import Params
from edged.log import output
from edged.ports import Message
from edged.services.archive.client import ArchiveAddress, ArchiveClient
from edged.services.batches.batcher import Batcher
from edged.services.cache.cache import Cache
from edged.services.cache.shared import SharedCache
from edged.services.epochs.loader import EpochLoader, EpochSettings
from edged.services.epochs.planner import PlannerSettings
from edged.services.group.checkpoints.publisher import CheckpointPublisher
from edged.services.group.checkpoints.reader import GroupTopics
from edged.services.group.log.group_log import GroupAddress
from edged.services.group.parameter_server import ParameterServer
from edged.services.group.planner import GroupPlanner
from edged.services.group.trainer import GroupTrainer
from edged.services.training.checkpointing import Checkpointing
from edged.settings import Timing
from tests.support.fake_time import until
from tests.support.logged import LoggedLines
from tests.support.training_world import (
    REQUESTS,
    STREAM,
    TRAINING,
    AnsweringLog,
    CrashingModel,
    NoImages,
    default_blocks,
)

TRAIN, GRADIENTS, CHECKPOINTS = "site.train.toy", "site.gradients.toy", "site.checkpoints.toy"
GROUP_TRAINING = replace(TRAINING, sampling=Sampling("uniform"), exchange=Exchange("all_reduce"))

TIMEOUT_S = 3600.0
"""Of the fake clock."""

_LATENCY_S = 0.01
"""Of an append, on the fake clock: so a test that waits for an event sees it before the next records are written."""


class AnsweringGroupLog(AnsweringLog):
    """An archive that answers each edge in its own topic, in one log with the group's.

    `before_part`: called just before a part of a member's gradient reaches the log.
    """

    before_part: Callable[[Part], Awaitable[None]] | None = None

    async def append(self, messages: Sequence[Message], *, refuse_too_large: bool = False) -> list[int]:
        if self.before_part is not None and messages[0].topic in {TRAIN, GRADIENTS}:
            record = records.decode(messages[0].value)
            if isinstance(record, Part):
                await self.before_part(record)
        await asyncio.sleep(_LATENCY_S)
        return await super().append(messages, refuse_too_large=refuse_too_large)

    async def answer(self, request: protocol.Request) -> None:
        topic = f"site.epochs.{request.edge}"
        for part in self._snapshot(request) if isinstance(request, SnapshotRequest) else self._samples(request):
            if not (isinstance(part, SamplesPart) and self.loses(part)):
                await super(AnsweringLog, self).append([Message(topic, protocol.encode_part(part))])


@dataclass
class Host:
    """What of one edge outlives its process."""

    store: MemoryCheckpoints = field(default_factory=MemoryCheckpoints)
    cache: Cache = field(default_factory=lambda: Cache(None, RecordingHealth(), memory_bytes=4096, disk_bytes=0))
    health: RecordingHealth = field(default_factory=RecordingHealth)


@dataclass
class GroupWorld:
    """What outlives all processes, and how to start an edge's."""

    edges: tuple[str, ...] = ("pi-a", "pi-b")
    training: Training = GROUP_TRAINING
    log: AnsweringGroupLog = field(default_factory=lambda: AnsweringGroupLog(default_blocks()))
    hosts: dict[str, Host] = field(default_factory=dict)
    lines: LoggedLines = field(default_factory=LoggedLines)

    def __post_init__(self) -> None:
        output.configure(node="pi-a", tier="edge", run_id="test", stream=self.lines, pretty=False)
        for edge in self.edges:
            self.hosts[edge] = Host()

    def events(self, name: str = "") -> list[dict[str, Any]]:
        return self.lines.beginning(name)

    @property
    def job(self) -> str:
        return job_digest(STREAM, self.training)

    def model(self, backend: Backend | None = None) -> CrashingModel:
        training = self.training
        return CrashingModel(STREAM.shape, training.model, micro_batch=4, loss=training.loss, backend=backend)

    def trainer(self, edge: str, model: Model | None = None) -> GroupTrainer:
        """A fresh process's trainer."""
        training, host = self.training, self.hosts[edge]
        client = ArchiveClient(
            self.log, host.health, ArchiveAddress(edge, "toy", REQUESTS, f"site.epochs.{edge}"), Timing()
        )
        share = SharedCache(host.cache, STREAM).share()
        settings = EpochSettings(training.epochs, training.test_fraction, training.test_samples, 8192)
        choice = PlannerSettings(training.sampling, training.seed, training.test_fraction, settings.window_bytes)
        planner = GroupPlanner(share, choice, edge, dict.fromkeys(self.edges, 4096), training.global_batch)
        batcher = Batcher(STREAM, training.global_batch, NoImages())
        return member_trainer(
            training,
            model or self.model(),
            self.checkpointing(edge),
            EpochLoader(client, batcher, settings, share, planner),
            planner,
            self.log,
            host.health,
            ScriptedLaneClock(),
            address=self.address(edge),
            topics=self.topics,
            rules=self.rules("vault" if self.has_server else ""),
        )

    def server(self) -> ParameterServer:
        """A fresh process's parameter server."""
        kind = self.training.exchange.compression
        return ParameterServer(self.log, self.rules("vault"), self.topics, gradients=GRADIENTS, compression=kind)

    def checkpointing(self, edge: str) -> Checkpointing:
        host = self.hosts[edge]
        return Checkpointing(
            host.store,
            host.health,
            lambda params, _: b"".join(params[name].tobytes() for name in sorted(params)),
            job=self.job,
            labels=STREAM.labels,
            sample_shape=STREAM.shape,
            every_s=lambda: self.training.checkpoint_s,
        )

    @property
    def has_server(self) -> bool:
        return self.training.exchange.mode == "parameter_server"

    @property
    def topics(self) -> GroupTopics:
        return GroupTopics(CHECKPOINTS, TRAIN, self.job, self.edges)

    def address(self, edge: str) -> GroupAddress:
        return GroupAddress(edge, self.edges, TRAIN, GRADIENTS if self.has_server else TRAIN)

    def rules(self, server: str) -> Rules:
        n = self.model().num_parameters
        return Rules(frozenset(self.edges), self.job, n, lambda blob: compression.decompress(blob, n), server)

    def publisher(self) -> CheckpointPublisher:
        return CheckpointPublisher(self.log, CHECKPOINTS)

    @asynccontextmanager
    async def running(self, *services: GroupTrainer | ParameterServer) -> AsyncIterator[list[asyncio.Task[None]]]:
        """Run them until the end of the block, then stop them as SIGTERM does."""
        tasks = [asyncio.create_task(each.run()) for each in services]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def finish(self, *trainers: GroupTrainer, servers: Sequence[ParameterServer] = ()) -> None:
        """Run them until all have trained to the end. Raises what any of them raised before."""
        async with self.running(*trainers, *servers) as tasks, asyncio.timeout(TIMEOUT_S):
            await until(lambda: all(is_finished(each) for each in trainers) or any(task.done() for task in tasks))
            for task in tasks:
                if task.done():
                    task.result()


def is_finished(trainer: GroupTrainer) -> bool:
    """Whether it has trained all epochs."""
    return trainer.state.position.epoch == trainer.training.epochs and trainer.progress().idle


def bits(params: Params) -> Mapping[str, bytes]:
    return {name: array.tobytes() for name, array in params.items()}
