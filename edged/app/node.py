"""What a node of each tier consists of: services, the adapters they are given, and their settings."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.adapters.host.blas import single_threaded_blas
from edged.adapters.host.counters import PsutilHost, lower_thread_priority
from edged.adapters.host.process_lock import sole_process
from edged.adapters.host.systemd import Systemd
from edged.adapters.images import PillowDecoder
from edged.adapters.kafka import KafkaLog
from edged.app.jobs import NUM_CORES, Jobs, servers, state_folder
from edged.app.supervision import Service, announce, supervise
from edged.domain.topology import Topology
from edged.ports import Health, Log
from edged.services.ingest.ingest import Ingest
from edged.services.ingest.uplink import Uplink
from edged.services.node.health import HealthBoard
from edged.settings import Folders, Timing

if TYPE_CHECKING:
    from edged.services.inference.served_model import Outputs


async def run_node(topology: Topology, node: str, timing: Timing = Timing()) -> int:  # noqa: B008 - frozen
    """Run the edge or archive node called `node` until it is told to stop; the exit code.

    Raises AlreadyRunning and, when the state folder cannot be used, StorageError.
    """
    is_edge = topology.tier_of(node) == "edge"
    edge = topology.edge(node) if is_edge else None
    folders = Folders.of(node)
    if edge is not None and any(job.backbone for job in topology.jobs):
        from edged.adapters.tflite import runtime as tflite  # noqa: PLC0415 - seldom needed here

        tflite.prepare_runtime()  # before there are other threads
    async with AsyncExitStack() as stack:
        stack.enter_context(sole_process(folders.state))
        announce(topology)
        health = HealthBoard()
        log = await stack.enter_async_context(KafkaLog(topology.kafka, health, deadline_s=timing.kafka_deadline_s))
        services: Mapping[str, Service]
        if edge is None:
            services = {**_archive(topology, log, health, timing), **servers(topology, node, log)}
        else:
            executor = stack.enter_context(
                ThreadPoolExecutor(NUM_CORES, thread_name_prefix="train", initializer=lower_thread_priority)
            )
            stack.enter_context(single_threaded_blas())
            jobs = Jobs(topology, edge, log, health, timing, folders, executor)
            await stack.enter_async_context(jobs)
            ingest = Ingest(log, topology, edge.name, PillowDecoder())
            services = {
                "uplink": Uplink(ingest, log, topology, edge.name, jobs.live(ingest.streams), timing),
                **jobs.trainers(),
                **servers(topology, node, log),
            }
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


async def run_companion(
    topology: Topology,
    node: str,
    timing: Timing = Timing(),  # noqa: B008 - frozen
    *,
    job: str | None = None,
) -> int:
    """Run the inference beside the edge `node` until it is told to stop; the exit code.

    `job`: whose models serve; the first job's if None. Raises ConfigError when there is none such.
    """
    from edged.adapters.tflite import runtime as tflite  # noqa: PLC0415 - the runtime is the companion's alone
    from edged.services.inference.companion import Companion, served_job  # noqa: PLC0415

    folders = Folders.of(node)
    training = served_job(topology, job)
    runtime = tflite.prepare_runtime()

    def load(content: bytes) -> "Outputs":
        if training.loss == "mean_squared_error":
            return tflite.load_features(content).features
        return tflite.load_classifier(content).predict

    async with AsyncExitStack() as stack:
        announce(topology)
        health = HealthBoard()
        log = await stack.enter_async_context(KafkaLog(topology.kafka, health, deadline_s=timing.kafka_deadline_s))
        companion = Companion(
            topology,
            node,
            training,
            log=log,
            models=CheckpointDir(state_folder(folders, training), writes=False),
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
    from edged.adapters.parquet.retrying import RetryingArchive  # noqa: PLC0415
    from edged.adapters.parquet.store import ParquetStore  # noqa: PLC0415 - pyarrow is the archive's alone
    from edged.services.archive.archiver import Archiver, ArchiverSettings, Source  # noqa: PLC0415
    from edged.services.archive.epoch_server import EpochServer  # noqa: PLC0415

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
            RetryingArchive(store, health),
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
