"""The services of an archive node: the archiver, what it leaves in Kafka, and the epoch server, over one store."""

from collections.abc import Mapping

from edged.app.supervision import Service
from edged.domain.samples.border import Border
from edged.domain.validation.memory import BLOCK_CACHE
from edged.ports import Health, Log, ObjectStore
from edged.settings import Timing, TopologyInUse
from edged.threads import ThreadPool


def services(
    in_use: TopologyInUse, objects: ObjectStore, log: Log, health: Health, timing: Timing
) -> Mapping[str, Service]:
    """The services of the topology's archive node, by name. `objects`: where its archive is."""
    from edged.adapters.parquet.block_reader import READS_AT_ONCE  # noqa: PLC0415
    from edged.adapters.parquet.retrying import RetryingArchive  # noqa: PLC0415
    from edged.adapters.parquet.store import ParquetStore  # noqa: PLC0415 - pyarrow is the archive's alone
    from edged.services.archive.archiver import Archiver, ArchiverSettings, Source  # noqa: PLC0415
    from edged.services.archive.epoch_server import EpochServer  # noqa: PLC0415
    from edged.services.archive.retention import Retention  # noqa: PLC0415

    topology = in_use.topology
    archive = topology.archive[0]
    threads = ThreadPool(READS_AT_ONCE, "archive-read")  # ends with the process, as its reads do
    store, border = ParquetStore(objects, topology.site, threads, BLOCK_CACHE), Border.of(topology)
    edges = [edge.name for edge in topology.edges]
    sources = [
        Source(stream, edge, topology.archive_topic(stream, edge))
        for edge in edges
        for stream in dict.fromkeys(device.stream for device in topology.devices_of(edge))
    ]

    def archiver_settings() -> ArchiverSettings:
        (archive,), log = in_use.topology.archive, in_use.topology.log
        return ArchiverSettings(
            flush_s=archive.flush_s,
            flush_bytes=archive.flush_bytes,
            poll_s=timing.poll_s,
            log_s=log.resources_s or timing.sample_s,
        )

    archiver = Archiver(
        log,
        RetryingArchive(store, health),
        sources,
        topology.group("archiver", archive.name),
        archiver_settings,
        border=border,
    )
    return {
        "archiver": archiver,
        "retention": Retention(log, archiver, sources, health, trims=archive.trim, every_s=timing.retention_s),
        "epoch_server": EpochServer(
            log,
            store,
            health,
            border=border,
            edges=edges,
            requests_topic=topology.requests_topic,
            epochs_topic=topology.epochs_topic,
            group=topology.group("epoch_server", archive.name),
            poll_s=timing.poll_s,
        ),
    }
