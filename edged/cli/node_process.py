"""What the commands that are a node have in common: the topology, the node's place in it, the log.

The log is the interface, also for why a node does not start: whoever reads it, as JSON or by `journalctl -p err`, finds
it there. On a terminal a wrong topology is shown as `edged check` shows it.
"""

import argparse
import asyncio
import faulthandler
import os
import secrets
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from edged import extras
from edged.adapters.tls import exposed
from edged.app.reload import log_refused
from edged.cli.arguments import require_node
from edged.cli.backbone import is_needed, look_up
from edged.cli.enabled_nodes import misfits_here
from edged.domain.topology import Topology
from edged.errors import AlreadyRunning, ConfigError, EdgedError, Problem, StateFolderRefused
from edged.log import log_crash, logger, output
from edged.threads import ThreadPool
from edged.topology_file import inspect, load

_COMMAND_OF_TIER = {"iot": "edged sensor", "edge": "edged run", "archive": "edged run"}

Read = Callable[[], Topology]
"""Reads the topology file, again too. Raises ConfigError."""

Main = Callable[[Topology, str, Read], Coroutine[Any, Any, int]]


def run_as(
    args: argparse.Namespace,
    *,
    tiers: Sequence[str],
    main: Main,
    tier: str | None = None,
) -> int:
    """Run `main` as `args.node` of `args.topology`, logging as of `tier`; its exit code."""
    run_id = secrets.token_hex(4)
    output.configure(node=args.node, tier=tier or "unknown", run_id=run_id, level=args.log_level or "info")

    def read() -> Topology:
        return _read(args, tiers, looks_up_backbone=tier is None)

    try:
        topology = read()
        output.configure(
            node=args.node, tier=tier or str(topology.tier_of(args.node)), run_id=run_id, level=topology.log.level
        )
        faulthandler.enable()  # a watchdog's SIGABRT leaves a traceback of every thread
        return asyncio.run(_with_workers(main, topology, args.node, read))
    except ConfigError as error:
        if sys.stderr.isatty():
            raise
        log_refused(error)
        return os.EX_CONFIG
    except EdgedError as error:
        logger().error("life.refused", reason=_reason(error))
        return _code(error)
    except Exception as error:  # noqa: BLE001 - the outermost place: reported in full, with an exit code of its own
        if missing := extras.missing(error):
            logger().error("life.refused", reason=missing)
            return os.EX_CONFIG  # restarting does not help
        log_crash(error)
        return os.EX_SOFTWARE


async def _with_workers(main: Main, topology: Topology, node: str, read: Read) -> int:
    asyncio.get_running_loop().set_default_executor(ThreadPool(name="worker"))
    return await main(topology, node, read)


def _read(args: argparse.Namespace, tiers: Sequence[str], *, looks_up_backbone: bool) -> Topology:
    """The topology with the command's log level, if it has one. Raises ConfigError."""
    file, node = args.topology, args.node
    inspection = inspect(file, node=node, check_tls=lambda files, at: ([], exposed(files, at)))
    topology = inspection.topology
    require_node(topology, node, str(file))
    own = topology.tier_of(node)
    if own not in tiers:
        wanted = " or ".join(tiers)
        hint = f"use {_COMMAND_OF_TIER[str(own)]}" if own else ""
        raise ConfigError((Problem("", f'"{node}" is in tier {own}, not {wanted}', hint, place=str(file)),))
    if looks_up_backbone and is_needed(topology, node):
        topology = load(file, node=node, look_up_backbone=look_up)
    if warnings := (*inspection.warnings, *misfits_here(file, inspection, node)):
        logger().warning("config.warned", problems=[str(each) for each in warnings])
    if args.log_level:
        topology = replace(topology, log=replace(topology.log, level=args.log_level))
    return topology


def _reason(error: EdgedError) -> str:
    hint = " (STATE_DIRECTORY or XDG_STATE_HOME names another)" if isinstance(error, StateFolderRefused) else ""
    return f"{error}{hint}"


def _code(error: EdgedError) -> int:
    if isinstance(error, StateFolderRefused):
        return os.EX_CANTCREAT
    return os.EX_TEMPFAIL if isinstance(error, AlreadyRunning) else 1
