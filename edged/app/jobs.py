"""What the training jobs of an edge consist of: a trainer each, and what they share.

All jobs run in one process: on the same threads, reading the archive's replies together, and those of one stream
through one cache.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.adapters.disk.sqlite_cache import SqliteCache
from edged.adapters.host import micro_batch
from edged.adapters.host.counters import num_cores
from edged.adapters.images import PillowDecoder
from edged.adapters.tflite.writer import to_tflite
from edged.aio import run_in_worker
from edged.app.group import group_trainer
from edged.domain.nn.model import Model, Params
from edged.domain.topology import Edge, Stream, Topology, Training
from edged.domain.topology.job import job_digest
from edged.errors import ConfigError, Problem, StorageError
from edged.log import logger
from edged.ports import Health, Log
from edged.services.archive.client import ArchiveAddress, ArchiveClient
from edged.services.batches.batcher import Batcher
from edged.services.batches.features import FeatureCache
from edged.services.batches.live import LiveBatches
from edged.services.cache.cache import Cache
from edged.services.cache.shared import CacheShare, SharedCache
from edged.services.epochs.loader import EpochLoader, EpochSettings
from edged.services.epochs.planner import LocalPlanner, PlannerSettings
from edged.services.group.planner import GroupPlanner
from edged.services.group.trainer import GroupTrainer
from edged.services.ingest.live_window import LiveWindow
from edged.services.training.checkpointing import Checkpointing, Samples
from edged.services.training.trainer import Trainer
from edged.settings import Folders, Timing

if TYPE_CHECKING:
    from edged.adapters.tflite.backbone import FrozenBackbone

_HELD_OUT_BYTES = 4 << 20
"""Fresh held-out samples kept to test live training on."""

NUM_CORES = num_cores()
"""A lane of each model, and a thread, for each."""


def state_folder(folders: Folders, job: Training) -> Path:
    """Where the job's checkpoints and models are."""
    return folders.state / "jobs" / job.name if job.name else folders.state


class Jobs:
    """The jobs of one edge. Within `async with` their caches are open; call `live` and then `trainers`, once each."""

    def __init__(
        self,
        topology: Topology,
        edge: Edge,
        log: Log,
        health: Health,
        timing: Timing,
        folders: Folders,
        executor: Executor,
    ) -> None:
        self._topology = topology
        self._edge = edge
        self._log = log
        self._health = health
        self._timing = timing
        self._folders = folders
        self._executor = executor
        self._models: list[Model] = []
        self._live: dict[int, LiveWindow] = {}
        self._shares: dict[int, CacheShare] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._models = [await run_in_worker(self._model, job) for job in self._topology.jobs]
        async with AsyncExitStack() as opened:
            await self._open_caches(opened)
            self._stack = opened.pop_all()
        return self

    async def _open_caches(self, stack: AsyncExitStack) -> None:
        streams = list(dict.fromkeys(job.stream for job in self._topology.jobs if job.source != "live"))
        for stream in streams:
            cache = await stack.enter_async_context(self._cache(self._topology.stream(stream), len(streams)))
            shared = SharedCache(cache)
            for i, job in enumerate(self._topology.jobs):
                if job.stream == stream and job.source != "live":
                    self._shares[i] = shared.share()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def live(self, streams: Iterable[str]) -> Mapping[str, list[LiveWindow]]:
        """The live windows that the jobs need of the edge's own `streams`, by stream."""
        windows: dict[str, list[LiveWindow]] = {stream: [] for stream in streams}
        for i, job in enumerate(self._topology.jobs):
            if job.source != "archive" and job.stream in windows:
                self._live[i] = LiveWindow(self._log, self._topology.archive_topic(job.stream, self._edge.name))
                windows[job.stream].append(self._live[i])
        return windows

    def trainers(self) -> Mapping[str, Trainer | GroupTrainer]:
        """A service for each job, by its name. Raises ConfigError when a backbone is no longer what it was."""
        trainers: dict[str, Trainer | GroupTrainer] = {}
        client: ArchiveClient | None = None
        for i, (job, model) in enumerate(zip(self._topology.jobs, self._models, strict=True)):
            client = ArchiveClient(self._log, self._health, self._address(job), self._timing, client)
            trainers[f"trainer:{job.name}" if job.name else "trainer"] = self._trainer(i, job, model, client)
        return trainers

    def _address(self, job: Training) -> ArchiveAddress:
        topology, edge = self._topology, self._edge.name
        return ArchiveAddress(edge, job.stream, topology.requests_topic, topology.epochs_topic(edge))

    def _model(self, job: Training) -> Model:
        """The model, its micro-batches as large as this machine computes best."""
        shape = job.input_shape(self._topology.stream(job.stream))
        assert shape is not None, "a backbone was looked up when the topology was read"
        most = -(-job.global_batch // NUM_CORES)
        size = job.micro_batch or micro_batch.tuned(shape, job.model, self._folders.cache, most=most)
        return Model(shape, job.model, loss=job.loss, lanes=NUM_CORES, micro_batch=size)

    def _cache(self, stream: Stream, num_streams: int) -> Cache:
        """The cache of a stream's samples: an equal part for each stream. Without the disk, when it cannot be used."""
        settings, disk = self._edge.cache, None
        memory_bytes = (settings.memory - self._feature_bytes * self._num_backbones) // num_streams
        disk_bytes = settings.disk // num_streams
        if disk_bytes:
            namespace = f"{self._topology.site}/{stream.name}/{stream.dtype}{list(stream.shape)}"
            folder = self._folders.cache if num_streams == 1 else self._folders.cache / "streams" / stream.name
            try:
                disk = SqliteCache(folder, disk_bytes, namespace)
            except StorageError as error:
                logger().warning("cache.disk_full", err=str(error))
        return Cache(
            disk,
            memory_bytes=memory_bytes,
            disk_bytes=disk_bytes,
            written_bytes_per_day=settings.disk_writes_per_day // num_streams,
        )

    @property
    def _num_backbones(self) -> int:
        return sum(job.backbone is not None for job in self._topology.jobs)

    @property
    def _feature_bytes(self) -> int:
        """The part of the cache's memory that is for one backbone's features: half of it for all of them."""
        return self._edge.cache.memory // (2 * max(self._num_backbones, 1))

    def _trainer(self, number: int, training: Training, model: Model, client: ArchiveClient) -> Trainer | GroupTrainer:
        stream = self._topology.stream(training.stream)
        job = job_digest(stream, training)
        is_classifier = training.loss == "cross_entropy"
        backbone = _backbone(training)
        features = None
        if backbone is not None:
            extractor = backbone.extractor(NUM_CORES)
            features = FeatureCache(extractor, stream.shape, model.sample_shape, self._feature_bytes)

        def batcher() -> Batcher:
            return Batcher(
                stream,
                training.global_batch,
                PillowDecoder(),
                self._executor,
                needs_labels=is_classifier,
                features=features,
            )

        store = CheckpointDir(state_folder(self._folders, training))
        epochs = fresh = chooser = None
        if number in self._shares:
            settings = EpochSettings(
                epochs=training.epochs,
                test_fraction=training.test_fraction,
                test_samples=training.test_samples,
                prefetch_bytes=self._edge.prefetch,
            )
            choice = PlannerSettings(training.sampling, training.seed, training.test_fraction, settings.window_bytes)
            share = self._shares[number]
            if training.exchange.mode != "none":
                budgets = {edge.name: edge.cache.memory + edge.cache.disk for edge in self._topology.edges}
                chooser = GroupPlanner(share, choice, self._edge.name, budgets, training.global_batch)
            epochs = EpochLoader(client, batcher(), settings, share, chooser or LocalPlanner(store, share, choice))
        if number in self._live:
            fresh = LiveBatches(
                self._live[number],
                batcher(),
                batcher(),
                edge=self._edge.name,
                test_fraction=training.test_fraction,
                held_out_bytes=_HELD_OUT_BYTES,
                poll_s=self._timing.poll_s,
            )

        def export(params: Params, calibration: Samples | None) -> bytes:
            if backbone is not None:
                return backbone.join(training.model, params, stream.labels)
            labels = stream.labels if is_classifier else None
            return to_tflite(stream.shape, training.model, params, labels=labels, calibration=calibration)

        checkpointing = Checkpointing(
            store,
            self._health,
            export,
            job=job,
            labels=stream.labels if is_classifier else (),
            sample_shape=stream.shape,
            every_s=training.checkpoint_s,
        )
        if chooser is not None:
            assert epochs is not None, "a group trains from the archive"
            return group_trainer(
                self._topology,
                self._edge.name,
                self._log,
                self._health,
                self._executor,
                training,
                model,
                checkpointing,
                epochs,
                chooser,
                job,
            )
        return Trainer(training, model, checkpointing, job=job, epochs=epochs, fresh=fresh, executor=self._executor)


def _backbone(training: Training) -> "FrozenBackbone | None":
    """The backbone, still the one that was looked into. Raises ConfigError when it is another by now."""
    if training.backbone is None:
        return None
    from edged.adapters.tflite.backbone import read_backbone  # noqa: PLC0415 - the TFLite runtime is not for every edge

    backbone = read_backbone(Path(training.backbone.model))
    if backbone.file != training.backbone.file:
        raise ConfigError((Problem("training", f"{training.backbone.model} was replaced a moment ago; start again"),))
    return backbone
