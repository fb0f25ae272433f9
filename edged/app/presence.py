"""The presence of a node or a companion: which run it is, where, and by which log it tells the others."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edged.adapters.host.name import host_name
from edged.adapters.host.processes import LocalProcesses
from edged.adapters.kafka import KafkaLog
from edged.domain.presence import Run
from edged.domain.topology import Topology
from edged.log import run_id
from edged.services.node.presence import Presence
from edged.settings import Timing

NODE, COMPANION = "run", "infer"
"""Roles: the commands that are nodes. A companion's has its job's name, too, if jobs have names."""


@asynccontextmanager
async def open_presence(
    log: KafkaLog, topology: Topology, node: str, role: str, folder: Path, lock: str, timing: Timing
) -> AsyncIterator[Presence]:
    """This process's presence as `node` in this role. `folder`: of its state; `lock`: of `process_lock`."""
    processes = LocalProcesses(lock)
    own = Run(run_id() or secrets.token_hex(4), host_name(), str(folder), processes.own, timing.presence_s)
    async with log.dispensable() as dispensable:
        yield Presence(dispensable, topology.presence_topic(node), role, own, processes)
