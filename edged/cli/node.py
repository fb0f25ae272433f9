"""What the commands that are a node have in common: the topology, the node's place in it, the log."""

import argparse
import asyncio
import faulthandler
import os
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from edged import log
from edged.cli.arguments import require_node
from edged.cli.backbone import look_up
from edged.domain.topology import Topology
from edged.errors import AlreadyRunning, ConfigError, EdgedError, Problem, StateFolderRefused
from edged.topology_file import load

_COMMAND_OF_TIER = {"iot": "edged sensor", "edge": "edged run", "archive": "edged run"}


def run_as(
    args: argparse.Namespace,
    *,
    tiers: Sequence[str],
    main: Callable[[Topology, str], Coroutine[Any, Any, int]],
    tier: str | None = None,
) -> int:
    """Run `main` as `args.node` of `args.topology`, logging as of `tier`; its exit code. Raises ConfigError."""
    file, node = args.topology, args.node
    topology = load(file)
    require_node(topology, node, str(file))
    own = topology.tier_of(node)
    if own not in tiers:
        wanted = " or ".join(tiers)
        hint = f"use {_COMMAND_OF_TIER[str(own)]}" if own else ""
        raise ConfigError((Problem("", f'"{node}" is in tier {own}, not {wanted}', hint, place=str(file)),))
    if tier is None and any(
        job.backbone and (own == "edge" or topology.server_of(job) == node) for job in topology.jobs
    ):
        topology = load(file, look_up_backbone=look_up)
    faulthandler.enable()  # a watchdog's SIGABRT leaves a traceback of every thread
    log.configure(node=node, tier=tier or str(own), run_id=secrets.token_hex(4), level=args.log_level)
    try:
        return asyncio.run(main(topology, node))
    except (ConfigError, StateFolderRefused):
        raise
    except EdgedError as error:
        log.logger().error("life.refused", reason=str(error))
        return os.EX_TEMPFAIL if isinstance(error, AlreadyRunning) else 1
