"""The companion of an edge: one service, and the models it serves."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.adapters.host.allocator import return_freed_memory
from edged.adapters.host.counters import PsutilHost
from edged.adapters.host.systemd import Systemd
from edged.adapters.images import PillowDecoder
from edged.adapters.kafka import KafkaLog
from edged.app.supervision import announce, supervise
from edged.domain.topology import Topology
from edged.domain.topology.topics import rights_of
from edged.services.node.health import HealthBoard
from edged.settings import Folders, Timing

if TYPE_CHECKING:
    from edged.services.inference.served_model import Outputs


async def run_companion(
    topology: Topology,
    node: str,
    timing: Timing = Timing(),  # noqa: B008 - frozen
    *,
    job: str | None = None,
) -> int:
    """Run inference for the edge `node` until a signal stops it; the exit code.

    `job`: the job whose models it serves; None: the first. Raises ConfigError when there is no such job.
    """
    from edged.adapters.tflite import runtime as tflite  # noqa: PLC0415 - the runtime is the companion's alone
    from edged.services.inference.companion import Companion, served_job  # noqa: PLC0415

    return_freed_memory()
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
        log = await stack.enter_async_context(
            KafkaLog(topology.kafka, health, deadline_s=timing.kafka_deadline_s, rights=rights_of(topology, node))
        )
        companion = Companion(
            topology,
            node,
            training,
            log=log,
            models=CheckpointDir(folders.of_job(training.name), writes=False),
            load=load,
            decoder=PillowDecoder(),
            runtime=runtime.name,
            poll_s=timing.poll_s,
        )
        return await supervise(
            topology,
            node,
            {"infer": companion},
            log=log,
            health=health,
            host=PsutilHost(folders.state, loopback=topology.kafka.is_loopback),
            notifier=Systemd(),
            timing=timing,
        )
