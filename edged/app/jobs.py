"""The training jobs of an edge: a trainer for each, and what they share.

All jobs run in one process: on the same threads, reading the archive's replies together, and those of one stream
through one cache.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.adapters.disk.sqlite_cache import SqliteCache
from edged.adapters.host import micro_batch
from edged.adapters.host.cores import num_cores
from edged.adapters.images_on_demand import ImagesOnDemand
from edged.aio import run_in_worker
from edged.domain.nn.backend import Backend
from edged.domain.nn.model import Model, Params
from edged.domain.topology import Edge, Job, Stream, Topology, Training
from edged.errors import ConfigError, Problem, StorageError
from edged.log import logger
from edged.ports import Health, LaneClock, Log
from edged.services.archive.client import ArchiveAddress, ArchiveClient
from edged.services.batches.batcher import Batcher
from edged.services.batches.features import FeatureCache
from edged.services.batches.live import LiveBatches
from edged.services.cache.cache import Cache
from edged.services.cache.shared import CacheShare, SharedCache
from edged.services.epochs.loader import EpochLoader, EpochSettings
from edged.services.epochs.planner import LocalPlanner, PlannerSettings
from edged.services.ingest.live_window import LiveWindow
from edged.services.training.checkpointing import Checkpointing, Samples
from edged.services.training.trainer import Trainer
from edged.settings import Folders, Timing, TopologyInUse

if TYPE_CHECKING:
    from edged.adapters.tflite.backbone import FrozenBackbone
    from edged.services.group.trainer import GroupTrainer

_HELD_OUT_BYTES = 4 << 20
"""Live samples held out to test live training on."""

NUM_CORES = num_cores()
"""Each model has as many lanes, and the executor as many threads."""


class EdgeJobs(NamedTuple):
    """`trainers`: a service for each job, by its name. `live_windows`: those that live training reads, by stream."""

    trainers: "Mapping[str, Trainer | GroupTrainer]"
    live_windows: Mapping[str, Sequence[LiveWindow]]


@asynccontextmanager
async def open_jobs(
    jobs: Sequence[Job],
    in_use: TopologyInUse,
    edge: Edge,
    log: Log,
    health: Health,
    timing: Timing,
    folders: Folders,
    executor: Executor,
    lanes: LaneClock,
    backend: Backend | None = None,
) -> AsyncIterator[EdgeJobs]:
    """The edge's jobs, ready to run; their caches are open inside the context.

    `backend`: computes the layers of jobs that do not ask for numpy.

    Raises ConfigError when a backbone's file was replaced since the topology was checked against it.
    """
    builder = _Builder(jobs, in_use, edge, log, health, timing, folders, executor, lanes, backend)
    models = [await run_in_worker(builder.model, job) for job in jobs]
    async with AsyncExitStack() as stack:
        caches = {}
        for stream in builder.archived_streams:
            caches[stream.name] = SharedCache(await stack.enter_async_context(builder.cache(stream)), stream)
        trainers: dict[str, Trainer | GroupTrainer] = {}
        live_windows: dict[str, list[LiveWindow]] = {}
        client: ArchiveClient | None = None
        for job, model in zip(jobs, models, strict=True):
            client = ArchiveClient(log, health, builder.address(job), timing, client)
            share = None if job.training.source == "live" else caches[job.stream.name].share()
            live_window = builder.live_window(job)
            if live_window is not None:
                live_windows.setdefault(job.stream.name, []).append(live_window)
            name = f"trainer:{job.name}" if job.name else "trainer"
            trainers[name] = builder.trainer(_JobParts(job, model, client, share, live_window))
        yield EdgeJobs(trainers, live_windows)


@dataclass(frozen=True, slots=True)
class _JobParts:
    """What a job's trainer is made of. `share`: None trains on live samples alone; `live_window`: None on none."""

    job: Job
    model: Model
    client: ArchiveClient
    share: CacheShare | None
    live_window: LiveWindow | None


@dataclass(frozen=True, slots=True)
class _Builder:
    """Makes the parts of the edge's jobs; `open_jobs` opens their caches."""

    jobs: Sequence[Job]
    in_use: TopologyInUse
    edge: Edge
    log: Log
    health: Health
    timing: Timing
    folders: Folders
    executor: Executor
    lanes: LaneClock
    backend: Backend | None

    @property
    def topology(self) -> Topology:
        return self.in_use.topology

    @property
    def archived_streams(self) -> Sequence[Stream]:
        """The streams that jobs train on from the archive, in the jobs' order."""
        streams = {job.stream.name: job.stream for job in self.jobs if job.training.source != "live"}
        return tuple(streams.values())

    def model(self, job: Job) -> Model:
        """The model, with the micro-batch size that this machine computes fastest."""
        training, shape = job.training, job.input_shape
        backend = None if training.kernels == "numpy" else self.backend
        limit = -(-training.global_batch // NUM_CORES)
        size = training.micro_batch or micro_batch.fastest(
            shape, training.model, self.folders.cache, batch_size=limit, backend=backend
        )
        return Model(shape, training.model, loss=training.loss, lanes=NUM_CORES, micro_batch=size, backend=backend)

    def cache(self, stream: Stream) -> Cache:
        """The cache of a stream's samples: an equal part for each stream; in memory only if the disk fails."""
        settings, num_streams, disk = self.edge.cache, len(self.archived_streams), None
        memory_bytes = (settings.memory - self._feature_bytes * self._num_backbones) // num_streams
        disk_bytes = settings.disk // num_streams
        if disk_bytes:
            namespace = f"{self.topology.site}/{stream.name}/{stream.dtype}{list(stream.shape)}"
            folder = self.folders.cache if num_streams == 1 else self.folders.cache / "streams" / stream.name
            try:
                disk = SqliteCache(folder, disk_bytes, namespace)
            except StorageError as error:
                logger().warning("cache.unusable", folder=str(folder), reason=str(error))
        return Cache(
            disk,
            self.health,
            memory_bytes=memory_bytes,
            disk_bytes=disk_bytes,
            written_bytes_per_day=lambda: self.topology.edge(self.edge.name).cache.disk_writes_per_day // num_streams,
        )

    def address(self, job: Job) -> ArchiveAddress:
        """How the job's requests reach the archive, and where its replies arrive."""
        topology, edge = self.topology, self.edge.name
        partition = topology.requests_partition(edge)
        return ArchiveAddress(edge, job.stream.name, topology.requests_topic, topology.epochs_topic(edge), partition)

    def live_window(self, job: Job) -> LiveWindow | None:
        """The window of live samples that the job trains on, also of devices that come later; None if on none."""
        if job.training.source == "archive":
            return None
        return LiveWindow(self.log, self.topology.archive_topic(job.stream.name, self.edge.name))

    def trainer(self, parts: _JobParts) -> "Trainer | GroupTrainer":
        """The job's trainer. Raises ConfigError: see `open_jobs`."""
        job, model, share = parts.job, parts.model, parts.share
        training, stream = job.training, job.stream
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
                ImagesOnDemand(self.topology),
                self.executor,
                needs_labels=is_classifier,
                features=features,
            )

        def export(params: Params, calibration: Samples | None) -> bytes:
            if backbone is not None:
                return backbone.join(training.model, params, stream.labels)
            from edged.adapters.tflite.writer import to_tflite  # noqa: PLC0415 - a quarter of the time of a start

            labels = stream.labels if is_classifier else None
            return to_tflite(stream.shape, training.model, params, labels=labels, calibration=calibration)

        store = CheckpointDir(self.folders.of_job(job.name), max_bytes=self.edge.memory_limit)
        if store.problem:
            self.health.degraded("disk", store.problem)
        checkpointing = Checkpointing(
            store,
            self.health,
            export,
            job=job.digest,
            labels=stream.labels if is_classifier else (),
            sample_shape=stream.shape,
            every_s=lambda: self.topology.job(job.name).checkpoint_s,
        )
        settings = EpochSettings(
            epochs=training.epochs,
            test_fraction=training.test_fraction,
            test_samples=training.test_samples,
            prefetch_bytes=self.edge.prefetch,
        )
        choice = PlannerSettings(training.sampling, training.seed, training.test_fraction, settings.window_bytes)
        if training.exchange.mode != "none":
            assert share is not None, "a group trains from the archive"
            from edged.app.group import group_trainer  # noqa: PLC0415 - a tenth of the time of a start, for groups alone
            from edged.services.group.planner import GroupPlanner  # noqa: PLC0415 - as above

            planner = GroupPlanner(share, choice, self.edge.name, self._cache_budgets, training.global_batch)
            epochs = EpochLoader(parts.client, batcher(), settings, share, planner)
            return group_trainer(
                job,
                self.edge.name,
                self.log,
                self.health,
                self.executor,
                model,
                checkpointing,
                epochs,
                planner,
                self.lanes,
                self.timing,
            )
        local = scores = fresh = None
        if share is not None:
            local_planner = LocalPlanner(store, share, choice, self.health)
            scores = local_planner.scores
            local = EpochLoader(parts.client, batcher(), settings, share, local_planner)
        if parts.live_window is not None:
            fresh = LiveBatches(
                parts.live_window,
                batcher(),
                batcher(),
                stream=stream.name,
                edge=self.edge.name,
                test_fraction=training.test_fraction,
                held_out_bytes=_HELD_OUT_BYTES,
                poll_s=self.timing.poll_s,
            )
        return Trainer(
            training,
            model,
            checkpointing,
            job=job.digest,
            epochs=local,
            scores=scores,
            live=fresh,
            executor=self.executor,
            lanes=self.lanes,
        )

    @property
    def _cache_budgets(self) -> Mapping[str, int]:
        """Bytes of each member's cache."""
        return {edge.name: edge.cache.memory + edge.cache.disk for edge in self.topology.edges}

    @property
    def _num_backbones(self) -> int:
        return sum(job.training.backbone is not None for job in self.jobs)

    @property
    def _feature_bytes(self) -> int:
        """The part of the cache's memory for one backbone's features: all of them together get half of it."""
        return self.edge.cache.memory // (2 * max(self._num_backbones, 1))


def _backbone(training: Training) -> "FrozenBackbone | None":
    """The backbone's layers. Raises ConfigError when its file was replaced since it was looked up."""
    if training.backbone is None:
        return None
    from edged.adapters.tflite.backbone import read_backbone  # noqa: PLC0415 - the TFLite runtime is not for every edge

    backbone = read_backbone(Path(training.backbone.model))
    if backbone.file != training.backbone.file:
        raise ConfigError((Problem("training", f"{training.backbone.model} was replaced a moment ago; start again"),))
    return backbone
