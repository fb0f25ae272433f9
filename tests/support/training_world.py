"""A small world for tests of training: an archive that answers in memory, and everything that a trainer needs."""

from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.adapters.memory.checkpoints import MemoryCheckpoints
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.lane_clock import ScriptedLaneClock
from edged.adapters.memory.log import MemoryLog
from edged.domain.archive import protocol
from edged.domain.archive.protocol import SamplesPart, SamplesRequest, SnapshotRequest
from edged.domain.archive.quarantine import Mask, laid_over
from edged.domain.archive.snapshot import QUARANTINE_SOURCE, BlockRef, Snapshot
from edged.domain.epochs.plan import CachePlan
from edged.domain.nn.backend import Backend
from edged.domain.nn.model import Gradient, Model
from edged.domain.nn.spec import Dense, Flatten
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample
from edged.domain.topology import Stream, Training
from edged.domain.topology.job import job_digest
from edged.domain.training.state import Params
from edged.errors import RejectedRecord
from edged.log import output
from edged.ports import Message
from edged.services.archive.client import ArchiveAddress, ArchiveClient
from edged.services.batches.batcher import Batcher, MiniBatch
from edged.services.batches.live import LiveBatches
from edged.services.cache.cache import Cache
from edged.services.cache.shared import CacheShare, SharedCache
from edged.services.epochs.loader import EpochLoader, EpochSettings
from edged.services.epochs.planner import LocalPlanner, PlannerSettings
from edged.services.epochs.sample_scores import SampleScores
from edged.services.ingest.live_window import LiveWindow
from edged.services.training.checkpointing import Checkpointing, Samples
from edged.services.training.trainer import Trainer
from edged.settings import Timing
from tests.support.logged import LoggedLines

STREAM = Stream("toy", (2, 2, 1), "uint8", ("a", "b", "c"))
TRAINING = Training("toy", (Flatten(), Dense(3)), epochs=2, global_batch=8, test_fraction=0.2, checkpoint_s=1e9)
REQUESTS, EPOCHS, LIVE = "site.archive.requests", "site.epochs.pi-a", "site.archive.toy.pi-a"
ADDRESS = ArchiveAddress("pi-a", "toy", REQUESTS, EPOCHS)


def make_pack(seed: int, rows: int, *, unlabelled: Sequence[int] = (), codec: str = "raw") -> Pack:
    """Random samples whose brightness follows their label."""
    rng = np.random.default_rng(seed)
    samples = []
    for row in range(rows):
        label = int(rng.integers(3))
        pixels = (rng.integers(0, 60, 4) + 90 * label).astype(np.uint8)
        text = None if row in unlabelled else STREAM.labels[label]
        samples.append(Sample("cam", 0, seed * 1000 + row, 0, text, codec, pixels.tobytes()))
    return Pack("toy", tuple(samples))


class AnsweringLog(MemoryLog):
    """A log with an archive: a request is answered as soon as it is appended.

    `blocks`: what the archive holds. Switches: `is_silent`; `missing`: samples it cannot read; `loses`: which parts
    never arrive. `requests`: all so far. `quarantined`: by one record, if not empty.
    """

    def __init__(self, blocks: dict[BlockRef, Pack]) -> None:
        super().__init__()
        self.blocks = blocks
        self.is_silent = False
        self.missing: set[tuple[BlockRef, int]] = set()
        self.loses: Callable[[SamplesPart], bool] = lambda _: False
        self.samples_a_part = 7
        self.requests: list[protocol.Request] = []
        self.quarantined: dict[BlockRef, Mask] = {}

    async def append(self, messages: Sequence[Message], *, refuse_too_large: bool = False) -> list[int]:
        offsets = await super().append(messages, refuse_too_large=refuse_too_large)
        for message in messages:
            if message.topic == REQUESTS:
                request = protocol.decode_request(message.value)
                self.requests.append(request)
                if not self.is_silent:
                    await self.answer(request)
        return offsets

    async def answer(self, request: protocol.Request) -> None:
        for part in self._snapshot(request) if isinstance(request, SnapshotRequest) else self._samples(request):
            if not (isinstance(part, SamplesPart) and self.loses(part)):
                await super().append([Message(EPOCHS, protocol.encode_part(part))])

    def snapshot(self, ends: Any = None) -> Snapshot:
        refs = sorted(ref for ref in self.blocks if ends is None or ref.offset < ends.get(ref.source, 0))
        sources = tuple(sorted({ref.source for ref in refs}))
        is_in_effect = bool(self.quarantined) and (ends is None or ends.get(QUARANTINE_SOURCE, 0) > 0)
        snapshot = Snapshot(
            sources,
            np.array([sources.index(ref.source) for ref in refs], np.int64),
            np.array([ref.offset for ref in refs], np.int64),
            np.array([len(self.blocks[ref].samples) for ref in refs], np.int64),
            np.array([self.blocks[ref].num_bytes for ref in refs], np.int64),
            {ref.source: ref.offset + 1 for ref in refs} | ({QUARANTINE_SOURCE: 1} if is_in_effect else {}),
        )
        return laid_over(snapshot, self.quarantined) if is_in_effect else snapshot

    def sample(self, sample_id: int) -> Sample:
        snapshot = self.snapshot()
        block, row = snapshot.locate(np.array([sample_id]))
        return self.blocks[snapshot.ref(int(block[0]))].samples[int(row[0])]

    def _snapshot(self, request: SnapshotRequest) -> list[protocol.Part]:
        return list(protocol.snapshot_parts(request.request, self.snapshot(request.ends)))

    def _samples(self, request: SamplesRequest) -> list[protocol.Part]:
        wanted = [(ref, int(row)) for ref, rows in zip(request.refs, request.rows, strict=True) for row in rows]
        size = self.samples_a_part
        parts: list[protocol.Part] = []
        for start in range(0, len(wanted), size):
            here = list(enumerate(wanted))[start : start + size]
            found = [(at, self.blocks[ref].samples[row]) for at, (ref, row) in here if (ref, row) not in self.missing]
            parts.append(
                SamplesPart(
                    request.request,
                    start // size,
                    start + size >= len(wanted),
                    np.array([at for at, _ in found], np.int64),
                    tuple(sample.label for _, sample in found),
                    tuple(sample.codec for _, sample in found),
                    tuple(sample.payload for _, sample in found),
                    np.array([at for at, each in here if each in self.missing], np.int64),
                )
            )
        return parts


class NoImages:
    """A decoder for a world without good images."""

    def decode(self, payload: bytes, codec: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        raise RejectedRecord("not_an_image")


class CrashError(Exception):
    """The process dies here."""


class CrashingModel(Model):
    """A model that lets the process die in step `crash_at` of this process, after the arithmetic."""

    crash_at = -1
    steps = 0
    poisoned_from = 1 << 60
    poisoned_to = 1 << 61
    dark_losses: float | None = None
    """The loss of samples darker than this is infinite."""
    spoilt_by: float | None = None
    """All losses of a mini-batch with a sample darker than this are not finite."""
    on_spoilt: Callable[[], object] = staticmethod(lambda: None)

    def gradient(self, *args: Any, **options: Any) -> Gradient:
        gradient = super().gradient(*args, **options)
        self.steps += 1
        if self.steps == self.crash_at:
            raise CrashError
        if self.poisoned_from <= self.steps < self.poisoned_to:
            gradient.losses[:] = np.nan
        if self.spoilt_by is not None and (args[1].max(axis=(1, 2, 3)) < self.spoilt_by).any():
            self.on_spoilt()
            gradient.losses[:] = np.nan
        if self.dark_losses is not None:
            gradient.losses[args[1].max(axis=(1, 2, 3)) < self.dark_losses] = np.inf
        return gradient


async def mini_batches(
    epochs: EpochLoader, plan: CachePlan, first: int = 0
) -> AsyncGenerator[tuple[MiniBatch, int], None]:
    """The mini-batches of the plan just drawn from its sample `first` on, each with the index after it."""
    await epochs.begin(plan, first)
    batcher, sample = epochs.batcher, first
    while (samples := await epochs.read(batcher.num_free)) is not None:
        batcher.add(samples)
        sample += len(samples)
        for each in batcher.take_unusable():
            epochs.leave_out(*each)
        if not batcher.num_free:
            yield batcher.take(), sample
    if batcher.num_filled:
        yield batcher.take(), sample


def default_blocks() -> dict[BlockRef, Pack]:
    blocks = {BlockRef("pi-a", i): make_pack(i, 10 + i) for i in range(6)}
    blocks |= {BlockRef("_train.toy", i): make_pack(100 + i, 12) for i in range(4)}
    return blocks | {BlockRef("_test.toy", 0): make_pack(200, 20)}


@dataclass
class World:
    """What outlives a process (log, archive, checkpoints), and how to start a process on it."""

    log: AnsweringLog = field(default_factory=lambda: AnsweringLog(default_blocks()))
    store: MemoryCheckpoints = field(default_factory=MemoryCheckpoints)
    cache: Cache = field(default_factory=lambda: Cache(None, RecordingHealth(), memory_bytes=0, disk_bytes=0))
    share: CacheShare | None = None
    """The trainer's share of a cache that it has in common with others; None: of `cache`, alone."""
    made_client: ArchiveClient = field(init=False)
    other_client: ArchiveClient | None = None
    """Another trainer's, with which its own shares the reading of replies."""
    health: RecordingHealth = field(default_factory=RecordingHealth)
    training: Training = TRAINING
    backend: Backend | None = None
    """Of the next process's model."""
    prefetch_bytes: int = 8192
    lines: LoggedLines = field(default_factory=LoggedLines)
    calibrations: list[Samples | None] = field(default_factory=list)
    """What each model was calibrated by."""

    def __post_init__(self) -> None:
        self.take_log()

    def take_log(self) -> None:
        """The log's lines come here from now on."""
        output.configure(node="pi-a", tier="edge", run_id="test", stream=self.lines, pretty=False)

    def events(self, name: str = "") -> list[dict[str, Any]]:
        return self.lines.beginning(name)

    @property
    def num_finished(self) -> int:
        """How often training has ended."""
        return self.lines.count("train.finished")

    def batcher(self) -> Batcher:
        needs_labels = self.training.loss == "cross_entropy"
        return Batcher(STREAM, self.training.global_batch, NoImages(), needs_labels=needs_labels)

    def client(self) -> ArchiveClient:
        self.made_client = ArchiveClient(self.log, self.health, ADDRESS, Timing(), self.other_client)
        return self.made_client

    def epochs(self) -> EpochLoader:
        return self.scored_epochs()[0]

    def scored_epochs(self) -> tuple[EpochLoader, SampleScores | None]:
        """A loader, and the scores that it draws plans by, if it does."""
        training = self.training
        settings = EpochSettings(training.epochs, training.test_fraction, training.test_samples, self.prefetch_bytes)
        decisive = PlannerSettings(training.sampling, training.seed, training.test_fraction, settings.window_bytes)
        share = SharedCache(self.cache, STREAM).share() if self.share is None else self.share
        planner = LocalPlanner(self.store, share, decisive, self.health)
        return EpochLoader(self.client(), self.batcher(), settings, share, planner), planner.scores

    def live_window(self) -> LiveWindow:
        window = LiveWindow(self.log, LIVE)
        window.start(len(self.log.records(LIVE)))
        return window

    def live_batches(self, window: LiveWindow) -> LiveBatches:
        return LiveBatches(
            window,
            self.batcher(),
            self.batcher(),
            stream="toy",
            edge="pi-a",
            test_fraction=self.training.test_fraction,
            held_out_bytes=1 << 20,
            poll_s=1.0,
        )

    def checkpointing(self) -> Checkpointing:
        return Checkpointing(
            self.store,
            self.health,
            self._export,
            job=self.job,
            labels=STREAM.labels if self.training.loss == "cross_entropy" else (),
            sample_shape=STREAM.shape,
            every_s=lambda: self.training.checkpoint_s,
        )

    def _export(self, params: Params, calibration: Samples | None) -> bytes:
        self.calibrations.append(calibration)
        return b"".join(params[name].tobytes() for name in sorted(params))

    @property
    def job(self) -> str:
        return job_digest(STREAM, self.training)

    def model(self) -> CrashingModel:
        training = self.training
        return CrashingModel(STREAM.shape, training.model, micro_batch=4, loss=training.loss, backend=self.backend)

    def trainer(
        self, *, model: Model | None = None, live: LiveWindow | None = None, executor: Executor | None = None
    ) -> Trainer:
        """A new process's trainer; with `live`, if the training's source is so, on live samples."""
        self.take_log()
        epochs, scores = (None, None) if self.training.source == "live" else self.scored_epochs()
        return Trainer(
            self.training,
            model or self.model(),
            self.checkpointing(),
            job=self.job,
            epochs=epochs,
            scores=scores,
            live=None if live is None else self.live_batches(live),
            executor=executor,
            lanes=ScriptedLaneClock(),
        )
