"""The companion of an edge: one service, and the models it serves."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import numpy as np

from edged.adapters.disk.checkpoint_dir import CheckpointDir
from edged.adapters.host.allocator import exempt_from_collections, keep_heap_small
from edged.adapters.host.counters import PsutilHost
from edged.adapters.host.mapped_files import give_back_files
from edged.adapters.host.process_lock import name_lock
from edged.adapters.host.systemd import Systemd
from edged.adapters.images_on_demand import ImagesOnDemand
from edged.adapters.kafka import KafkaLog
from edged.app import model_probe
from edged.app.kernels import fastest_backend
from edged.app.presence import COMPANION, open_presence
from edged.app.supervision import announce, supervise, warn_of_cache
from edged.domain.topology import Topology
from edged.domain.topology.topics import rights_of
from edged.services.node.health import HealthBoard
from edged.settings import Folders, Timing, TopologyInUse

if TYPE_CHECKING:
    from edged.services.inference.served_model import Outputs


async def run_companion(
    topology: Topology,
    node: str,
    read: Callable[[], Topology],
    timing: Timing = Timing(),  # noqa: B008 - frozen
    *,
    job: str | None = None,
) -> int:
    """Run inference for the edge `node` until a signal stops it; the exit code.

    `job`: the job whose models it serves; None: the first. `read`: reads the topology file again, see `app.reload`.
    Raises ConfigError when there is no such job, AlreadyRunning when another process serves it, and StateFolderRefused
    when the folder of its models may not be read.
    """
    from edged.adapters.tflite import runtime as tflite  # noqa: PLC0415 - the runtime is the companion's alone
    from edged.adapters.tflite.interpreter import TfliteClassifier, TfliteFeatures  # noqa: PLC0415
    from edged.adapters.tflite.proof import Proofs  # noqa: PLC0415
    from edged.services.inference.companion import Companion, served_job  # noqa: PLC0415

    keep_heap_small()
    folders = Folders.of(node)
    training = served_job(topology, job)
    runtime = tflite.prepare_runtime()
    proofs = Proofs(folders.cache / "proofs.json", model_probe.__name__)
    is_classifier, is_numpy = training.loss == "cross_entropy", runtime.name == "numpy"

    def load(content: bytes) -> "Outputs":
        proofs.check("tflite", f"{runtime.name} {runtime.version}", content)
        return TfliteClassifier(content).predict if is_classifier else TfliteFeatures(content).features

    def load_by_numpy(content: bytes) -> "Outputs":
        backend = None if training.kernels == "numpy" else fastest_backend()
        if backend is None:
            proofs.check("numpy", np.__version__, content)
        else:
            proofs.check("kernels", backend.code, content)
        if is_classifier:
            return tflite.NumpyClassifier(content, backend).predict
        return tflite.NumpyFeatures(content, backend).features

    models = folders.of_job(training.name)
    async with AsyncExitStack() as stack:
        lock = stack.enter_context(name_lock(models, COMPANION))
        stack.callback(proofs.stop)
        announce(topology)
        warn_of_cache(folders.cache)
        health = HealthBoard()
        log = await stack.enter_async_context(
            KafkaLog(topology.kafka, health, deadline_s=timing.kafka_deadline_s, rights=rights_of(topology, node))
        )
        in_use = TopologyInUse(topology)
        companion = Companion(
            in_use,
            node,
            training,
            log=log,
            health=health,
            models=CheckpointDir(models, writes=False, max_bytes=topology.edge(node).memory_limit),
            load=load_by_numpy if is_numpy else load,
            decoder=ImagesOnDemand(topology),
            runtime=runtime.name,
            poll_s=timing.poll_s,
            report_s=timing.report_s,
            last_resort=None if is_numpy else ("numpy", load_by_numpy),
        )
        role = f"{COMPANION}:{training.name}" if training.name else COMPANION
        presence = open_presence(log, topology, node, role, folders.state, lock, timing)
        exempt_from_collections()
        give_back_files()
        return await supervise(
            in_use,
            node,
            {"infer": companion},
            read=read,
            log=log,
            health=health,
            host=PsutilHost(folders.state, loopback=topology.kafka.is_loopback),
            notifier=Systemd(),
            timing=timing,
            presence=await stack.enter_async_context(presence),
        )
