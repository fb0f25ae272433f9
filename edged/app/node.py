"""What a node of each tier consists of: services, the adapters they are given, and their settings."""

import os
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from edged.adapters import micro_batch
from edged.adapters.blas import single_threaded_blas
from edged.adapters.checkpoint_dir import CheckpointDir
from edged.adapters.disk_cache import SqliteCache
from edged.adapters.host import PsutilHost, lower_thread_priority
from edged.adapters.images import PillowDecoder
from edged.adapters.kafka import KafkaLog
from edged.adapters.sole_process import sole_process
from edged.adapters.systemd import Systemd
from edged.adapters.tflite_writer import to_tflite
from edged.aio import run_in_worker
from edged.app.supervision import Service, announce, supervise
from edged.config import Folders, Timing
from edged.domain.checkpoint import job_digest
from edged.domain.nn.model import Model, Params
from edged.domain.topology import Edge, Topology, Training
from edged.errors import ConfigError, Problem, StorageError
from edged.log import logger
from edged.ports import Health, Log
from edged.services.archive_client import ArchiveAddress, ArchiveClient
from edged.services.cache import Cache
from edged.services.checkpointing import Checkpointing, Samples
from edged.services.epoch import Epochs, EpochSettings
from edged.services.epoch_choice import ChoiceSettings, Chooser
from edged.services.feature_cache import FeatureCache
from edged.services.fresh import FreshSamples
from edged.services.health import HealthBoard
from edged.services.ingest import Ingest
from edged.services.live import LiveLog
from edged.services.minibatch import Batcher
from edged.services.train import Trainer
from edged.services.uplink import Uplink

if TYPE_CHECKING:
    from edged.adapters.backbone import FrozenBackbone
    from edged.services.served_model import Outputs

_HELD_OUT_BYTES = 4 << 20
"""Fresh held-out samples kept to test live training on."""

_NUM_CORES = os.cpu_count() or 1
"""A lane of the model, and a thread, for each."""


async def run_node(topology: Topology, node: str, timing: Timing = Timing()) -> int:  # noqa: B008 - frozen
    """Run the edge or archive node called `node` until it is told to stop; the exit code.

    Raises AlreadyRunning and, when the state folder cannot be used, StorageError.
    """
    is_edge = topology.tier_of(node) == "edge"
    edge = topology.edge(node) if is_edge else None
    folders = Folders.of(node)
    if edge is not None and topology.training is not None and topology.training.backbone is not None:
        from edged.adapters import tflite  # noqa: PLC0415 - seldom needed here

        tflite.prepare_runtime()  # before there are other threads
    async with AsyncExitStack() as stack:
        stack.enter_context(sole_process(folders.state))
        announce(topology)
        health = HealthBoard()
        log = await stack.enter_async_context(KafkaLog(topology.kafka, health, deadline_s=timing.kafka_deadline_s))
        model = None
        if edge is None:
            services = _archive(topology, log, health, timing)
        else:
            executor = stack.enter_context(
                ThreadPoolExecutor(_NUM_CORES, thread_name_prefix="train", initializer=lower_thread_priority)
            )
            stack.enter_context(single_threaded_blas())
            if topology.training is not None:
                model = await run_in_worker(_model, topology, topology.training, folders)
            cache = await stack.enter_async_context(_cache(topology, edge, folders))
            services = _edge(topology, edge, log, health, timing, folders, executor, model, cache)
        return await supervise(
            topology,
            services,
            log=log,
            health=health,
            host=PsutilHost(folders.state, loopback=topology.kafka.is_loopback),
            notifier=Systemd(),
            timing=timing,
            memory_limit=None if edge is None else edge.memory_limit,
        )


async def run_companion(topology: Topology, node: str, timing: Timing = Timing()) -> int:  # noqa: B008 - frozen
    """Run the inference beside the edge `node` until it is told to stop; the exit code."""
    from edged.adapters import tflite  # noqa: PLC0415 - the runtime is the companion's alone
    from edged.services.infer import Companion  # noqa: PLC0415

    folders = Folders.of(node)
    runtime = tflite.prepare_runtime()

    def load(content: bytes) -> "Outputs":
        if topology.training is not None and topology.training.loss == "mean_squared_error":
            return tflite.load_features(content).features
        return tflite.load_classifier(content).predict

    async with AsyncExitStack() as stack:
        announce(topology)
        health = HealthBoard()
        log = await stack.enter_async_context(KafkaLog(topology.kafka, health, deadline_s=timing.kafka_deadline_s))
        companion = Companion(
            topology,
            node,
            log=log,
            models=CheckpointDir(folders.state, writes=False),
            load=load,
            decoder=PillowDecoder(),
            runtime=runtime.name,
            poll_s=timing.poll_s,
        )
        return await supervise(
            topology,
            {"infer": companion},
            log=log,
            health=health,
            host=PsutilHost(folders.state, loopback=topology.kafka.is_loopback),
            notifier=Systemd(),
            timing=timing,
        )


def _archive(topology: Topology, log: Log, health: Health, timing: Timing) -> Mapping[str, Service]:
    from edged.adapters.parquet_store import ParquetStore  # noqa: PLC0415 - pyarrow is the archive's alone
    from edged.adapters.patient_archive import PatientArchive  # noqa: PLC0415
    from edged.services.archiver import Archiver, ArchiverSettings, Source  # noqa: PLC0415
    from edged.services.epoch_server import EpochServer  # noqa: PLC0415

    archive = topology.archive[0]
    store = ParquetStore(archive.url)
    edges = [edge.name for edge in topology.edges]
    sources = [
        Source(stream, edge, topology.archive_topic(stream, edge))
        for edge in edges
        for stream in dict.fromkeys(device.stream for device in topology.devices_of(edge))
    ]
    return {
        "archiver": Archiver(
            log,
            PatientArchive(store, health),
            sources,
            topology.group("archiver", archive.name),
            ArchiverSettings(flush_s=archive.flush_s, flush_bytes=archive.flush_bytes, poll_s=timing.poll_s),
        ),
        "epoch_server": EpochServer(
            log,
            store,
            health,
            streams=[stream.name for stream in topology.streams],
            edges=edges,
            requests_topic=topology.requests_topic,
            epochs_topic=topology.epochs_topic,
            group=topology.group("epoch_server", archive.name),
            poll_s=timing.poll_s,
        ),
    }


def _edge(
    topology: Topology,
    edge: Edge,
    log: Log,
    health: Health,
    timing: Timing,
    folders: Folders,
    executor: Executor,
    model: Model | None,
    cache: Cache,
) -> Mapping[str, Service]:
    decoder = PillowDecoder()
    ingest = Ingest(log, topology, edge.name, decoder)
    live = {stream: LiveLog(log, topology.archive_topic(stream, edge.name)) for stream in ingest.streams}
    services: dict[str, Service] = {"uplink": Uplink(ingest, log, topology, edge.name, live, timing)}
    training = topology.training
    if training is not None and model is not None:
        services["trainer"] = _trainer(
            topology, training, edge, log, health, timing, folders, executor, model, cache, live.get(training.stream)
        )
    return services


def _cache(topology: Topology, edge: Edge, folders: Folders) -> Cache:
    """The edge's cache of the samples that it trains on. Without the disk, when that cannot be used."""
    training, disk = topology.training, None
    memory_bytes, disk_bytes = edge.cache.memory, edge.cache.disk
    if training is None or training.source == "live":
        memory_bytes = disk_bytes = 0
    elif training.backbone is not None:
        memory_bytes -= _feature_bytes(edge)
    if training is not None and disk_bytes:
        stream = topology.stream(training.stream)
        namespace = f"{topology.site}/{stream.name}/{stream.dtype}{list(stream.shape)}"
        try:
            disk = SqliteCache(folders.cache, disk_bytes, namespace)
        except StorageError as error:
            logger().warning("cache.disk_full", err=str(error))
    return Cache(
        disk,
        memory_bytes=memory_bytes,
        disk_bytes=disk_bytes,
        written_bytes_a_day=edge.cache.disk_writes_a_day,
    )


def _feature_bytes(edge: Edge) -> int:
    """The part of the cache's memory that is for a backbone's features."""
    return edge.cache.memory // 2


def _model(topology: Topology, training: Training, folders: Folders) -> Model:
    """The model, its micro-batches as large as this machine computes best."""
    shape = training.input_shape(topology.stream(training.stream))
    assert shape is not None, "a backbone was looked up when the topology was read"
    most = -(-training.global_batch // _NUM_CORES)
    size = training.micro_batch or micro_batch.tuned(shape, training.model, folders.cache, most=most)
    return Model(shape, training.model, loss=training.loss, lanes=_NUM_CORES, micro_batch=size)


def _trainer(
    topology: Topology,
    training: Training,
    edge: Edge,
    log: Log,
    health: Health,
    timing: Timing,
    folders: Folders,
    executor: Executor,
    model: Model,
    cache: Cache,
    live: LiveLog | None,
) -> Trainer:
    stream = topology.stream(training.stream)
    job = job_digest(stream, training)
    is_classifier = training.loss == "cross_entropy"

    backbone = _backbone(training)
    features = None
    if backbone is not None:
        features = FeatureCache(backbone.extractor(_NUM_CORES), stream.shape, model.sample_shape, _feature_bytes(edge))

    def batcher() -> Batcher:
        return Batcher(
            stream, training.global_batch, PillowDecoder(), executor, needs_labels=is_classifier, features=features
        )

    store = CheckpointDir(folders.state)
    epochs = fresh = None
    if training.source != "live":
        address = ArchiveAddress(edge.name, stream.name, topology.requests_topic, topology.epochs_topic(edge.name))
        settings = EpochSettings(
            epochs=training.epochs,
            seed=training.seed,
            test_fraction=training.test_fraction,
            test_samples=training.test_samples,
            prefetch_bytes=edge.prefetch,
        )
        chooser = Chooser(
            store,
            cache,
            ChoiceSettings(training.sampling, training.seed, training.test_fraction, settings.window_bytes),
        )
        epochs = Epochs(ArchiveClient(log, health, address, timing), batcher(), settings, cache, chooser)
    if training.source != "archive" and live is not None:
        fresh = FreshSamples(
            live,
            batcher(),
            batcher(),
            edge=edge.name,
            test_fraction=training.test_fraction,
            held_out_bytes=_HELD_OUT_BYTES,
            poll_s=timing.poll_s,
        )

    def export(params: Params, calibration: Samples | None) -> bytes:
        if backbone is not None:
            return backbone.join(training.model, params, stream.labels)
        labels = stream.labels if is_classifier else None
        return to_tflite(stream.shape, training.model, params, labels=labels, calibration=calibration)

    checkpointing = Checkpointing(
        store,
        health,
        export,
        job=job,
        labels=stream.labels if is_classifier else (),
        sample_shape=stream.shape,
        every_s=training.checkpoint_s,
    )
    return Trainer(
        training,
        model,
        checkpointing,
        job=job,
        epochs=epochs,
        fresh=fresh,
        executor=executor,
    )


def _backbone(training: Training) -> "FrozenBackbone | None":
    """The backbone, still the one that was looked into. Raises ConfigError when it is another by now."""
    if training.backbone is None:
        return None
    from edged.adapters.backbone import read_backbone  # noqa: PLC0415 - the TFLite runtime is not for every edge

    backbone = read_backbone(Path(training.backbone.model))
    if backbone.file != training.backbone.file:
        raise ConfigError((Problem("training.backbone.model", "the file was replaced a moment ago; start again"),))
    return backbone
