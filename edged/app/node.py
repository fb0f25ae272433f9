"""What a node of each tier consists of: services, the adapters they are given, and their settings."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

from edged.adapters.host.blas import single_threaded_blas
from edged.adapters.host.counters import PsutilHost, lower_thread_priority
from edged.adapters.host.process_lock import sole_process
from edged.adapters.host.systemd import Systemd
from edged.adapters.images import PillowDecoder
from edged.adapters.kafka import KafkaLog
from edged.app import archive
from edged.app.group import servers
from edged.app.jobs import NUM_CORES, Jobs
from edged.app.supervision import Service, announce, supervise
from edged.domain.topology import Topology
from edged.services.ingest.ingest import Ingest
from edged.services.ingest.uplink import Uplink
from edged.services.node.health import HealthBoard
from edged.settings import Folders, Timing


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
            services = {**archive.services(topology, log, health, timing), **servers(topology, node, log)}
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
