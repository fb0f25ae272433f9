"""A node of the edge or archive tier: its services, and the adapters and settings that they get."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

from edged.adapters.host.allocator import exempt_from_collections, keep_heap_small
from edged.adapters.host.blas import single_threaded_blas
from edged.adapters.host.counters import PsutilHost
from edged.adapters.host.lane_clock import KernelLaneClock
from edged.adapters.host.mapped_files import give_back_files
from edged.adapters.host.process_lock import process_lock
from edged.adapters.host.systemd import Systemd
from edged.adapters.host.thread_priority import LowerPriority
from edged.adapters.images_on_demand import ImagesOnDemand
from edged.adapters.kafka import KafkaLog
from edged.app import archive
from edged.app.jobs import NUM_CORES, open_jobs
from edged.app.kernels import fastest_backend
from edged.app.objects import object_store
from edged.app.presence import NODE, open_presence
from edged.app.supervision import Service, announce, supervise, warn_of_cache
from edged.domain.topology import Job, Topology
from edged.domain.topology.topics import rights_of
from edged.ports import Health, Log
from edged.services.ingest.ingest import Ingest
from edged.services.ingest.uplink import Uplink
from edged.services.node.health import HealthBoard
from edged.settings import Folders, Timing, TopologyInUse
from edged.threads import ThreadPool


async def run_node(
    topology: Topology,
    node: str,
    read: Callable[[], Topology],
    timing: Timing = Timing(),  # noqa: B008 - frozen
) -> int:
    """Run the edge or archive node called `node` until a signal stops it; the exit code.

    `read`: reads the topology file again, see `app.reload`.

    Raises AlreadyRunning and, when the state folder cannot be used, StateFolderRefused.
    """
    keep_heap_small()
    in_use = TopologyInUse(topology)
    is_edge = topology.tier_of(node) == "edge"
    edge = topology.edge(node) if is_edge else None
    folders, jobs = Folders.of(node), topology.resolved_jobs(node)
    if edge is not None and any(job.training.backbone for job in jobs):
        from edged.adapters.tflite import runtime as tflite  # noqa: PLC0415 - seldom needed here

        tflite.prepare_runtime()  # before there are other threads
    async with AsyncExitStack() as stack:
        lock = stack.enter_context(process_lock(folders.state))
        announce(topology)
        health = HealthBoard()
        log = await stack.enter_async_context(
            KafkaLog(topology.kafka, health, deadline_s=timing.kafka_deadline_s, rights=rights_of(topology, node))
        )
        services: Mapping[str, Service]
        lanes: KernelLaneClock | None = None
        if edge is None:
            objects = object_store(topology.archive_node(node), node)
            stack.callback(objects.close)
            services = {
                **archive.services(in_use, node, objects, log, health, timing),
                **_servers(jobs, node, log, timing),
            }
        else:
            if not edge.cache.disk:  # else whoever opens the cache says so
                warn_of_cache(folders.cache)
            lanes, priority = KernelLaneClock(NUM_CORES), LowerPriority()

            def begin_lane() -> None:
                priority.lower()
                lanes.register()

            executor = stack.enter_context(ThreadPool(NUM_CORES, "train", begin_lane))
            stack.enter_context(single_threaded_blas())
            backend = fastest_backend() if any(job.training.kernels == "auto" for job in jobs) else None
            opened = open_jobs(jobs, in_use, edge, log, health, timing, folders, executor, lanes, backend)
            trainers, live_windows = await stack.enter_async_context(opened)
            ingest = Ingest(log, in_use, edge.name, ImagesOnDemand(topology))
            services = {
                **_mqtt(log, in_use, edge.name, health, timing),
                "uplink": Uplink(ingest, log, topology, edge.name, live_windows, timing),
                **trainers,
                **_servers(jobs, node, log, timing),
            }
        presence = open_presence(log, topology, node, NODE, folders.state, lock, timing)
        exempt_from_collections()
        give_back_files()
        return await supervise(
            in_use,
            node,
            services,
            read=read,
            log=log,
            health=health,
            host=PsutilHost(folders.state, loopback=topology.kafka.is_loopback),
            notifier=Systemd(),
            timing=timing,
            memory_limit=None if edge is None else edge.memory_limit,
            lanes=lanes,
            presence=await stack.enter_async_context(presence),
        )


def _mqtt(log: Log, in_use: TopologyInUse, edge: str, health: Health, timing: Timing) -> Mapping[str, Service]:
    """What serves the edge's MQTT devices, which a reload may bring where the file has a broker."""
    if in_use.topology.mqtt is None:
        return {}
    from edged.app import mqtt  # noqa: PLC0415 - seldom needed

    return {"mqtt": mqtt.MqttDevices(log, in_use, edge, health, timing)}


def _servers(jobs: Sequence[Job], node: str, log: Log, timing: Timing) -> Mapping[str, Service]:
    """The parameter servers that run on the node."""
    if not any(job.server == node for job in jobs):
        return {}
    from edged.app.group import servers  # noqa: PLC0415 - what groups need is a tenth of the time of a start

    return servers(jobs, node, log, timing)
