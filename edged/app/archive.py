"""The services of an archive node: archiver, retention and epoch server over one store, and its share of the work."""

from collections.abc import Mapping

from edged.app.supervision import Service
from edged.domain.samples.border import Border
from edged.domain.validation.memory import BLOCK_CACHE
from edged.ports import Health, Log, ObjectStore, TopicPartition
from edged.settings import Timing, TopologyInUse
from edged.threads import ThreadPool


def services(
    in_use: TopologyInUse, node: str, objects: ObjectStore, log: Log, health: Health, timing: Timing
) -> Mapping[str, Service]:
    """The services of the archive node called `node`, by name. `objects`: where its archive is."""
    from edged.adapters.parquet.block_reader import READS_AT_ONCE  # noqa: PLC0415
    from edged.adapters.parquet.retrying import RetryingArchive  # noqa: PLC0415
    from edged.adapters.parquet.store import ParquetStore  # noqa: PLC0415 - pyarrow is the archive's alone
    from edged.services.archive.archiver import Archiver, ArchiverSettings, Source  # noqa: PLC0415
    from edged.services.archive.epoch_server import EpochServer  # noqa: PLC0415
    from edged.services.archive.retention import Retention  # noqa: PLC0415
    from edged.services.archive.sharing import Share, Sharing  # noqa: PLC0415
    from edged.services.archive.trimming import Trimming  # noqa: PLC0415

    topology = in_use.topology
    archive = topology.archive_node(node)
    threads = ThreadPool(READS_AT_ONCE, "archive-read")  # ends with the process, as its reads do
    store, border = ParquetStore(objects, topology.site, threads, BLOCK_CACHE), Border.of(topology)
    edges = [edge.name for edge in topology.edges]
    sources = [
        Source(stream, edge, topology.archive_topic(stream, edge))
        for edge in edges
        for stream in dict.fromkeys(device.stream for device in topology.devices_of(edge))
    ]

    def archiver_settings() -> ArchiverSettings:
        archive, log = in_use.topology.archive_node(node), in_use.topology.log
        return ArchiverSettings(
            flush_s=archive.flush_age_s,
            flush_bytes=archive.flush_bytes,
            poll_s=timing.poll_s,
            log_s=log.resources_s or timing.sample_s,
        )

    shared: Mapping[str, Service] = {}
    share = Share([*(TopicPartition(source.topic) for source in sources), TopicPartition(topology.requests_topic)])
    if topology.has_several_archive_nodes:
        topics = [*(source.topic for source in sources), topology.requests_topic]
        share = Share()
        shared = {"sharing": Sharing(log, share, topology.archive_members, topics)}
    archiver = Archiver(
        log,
        RetryingArchive(
            store,
            health,
            is_shared=topology.has_several_archive_nodes,
            retained=store if archive.when_full == "oldest_first" else None,
            room_bytes=2 * archive.flush_bytes,
        ),
        sources,
        topology.archive_group("archiver", node),
        archiver_settings,
        border=border,
        share=share,
    )
    return {
        **shared,
        "archiver": archiver,
        "trimming": Trimming(log, archiver, sources, health, trims=archive.trim, every_s=timing.trimming_s),
        "retention": Retention(
            store,
            health,
            lambda: in_use.topology.archive_node(node).retention,
            sources,
            [stream.name for stream in topology.streams],
            TopicPartition(topology.requests_topic),
            share,
            every_s=timing.retention_s,
        ),
        "epoch_server": EpochServer(
            log,
            store,
            health,
            border=border,
            edges=edges,
            requests_topic=topology.requests_topic,
            epochs_topic=topology.epochs_topic,
            group=topology.archive_group("epoch_server", node),
            share=share,
            poll_s=timing.poll_s,
        ),
    }
