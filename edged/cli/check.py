"""`edged check`: is the topology file valid, and what does it come to?

The plan is made once as plain values; `--json` prints those, else they are laid out for people.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from edged import topology_file
from edged.adapters.kernels.backend import compiled
from edged.cli.arguments import add_topology, require_node
from edged.cli.backbone import look_up
from edged.cli.enabled_nodes import environment_of, misfits_here, nodes_here
from edged.cli.problems import show
from edged.cli.site_plan import Plan, plan_of
from edged.cli.site_plan_text import plan_lines
from edged.domain.nn.backend import NUMPY
from edged.domain.topology import Security, Tls, Topology
from edged.domain.validation.finding import Finding
from edged.errors import ConfigError, KernelsUnavailable, Problem
from edged.extras import not_installed
from edged.topology_file import Inspection

SUMMARY = "validate the topology file and print the plan it comes to"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_topology(parser)
    parser.add_argument("--node", metavar="NAME", help="only what concerns this node, as its unit reads the file")
    parser.add_argument("--json", action="store_true", help="print JSON, problems included")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="variables, credentials and certificate files must be there and fit, as when the node starts: the one of"
        " --node, or those of this machine",
    )


def run(args: argparse.Namespace) -> int:
    """Print the plan and return 0, or the problems and 78."""
    try:
        inspections = list(_inspections(args))
        topology = inspections[0].topology
        if args.node is not None:
            require_node(topology, args.node, str(args.topology))
    except ConfigError as error:
        if not args.json:
            raise
        print(json.dumps({"valid": False, "problems": [_as_json(p) for p in error.problems]}, indent=2))
        return os.EX_CONFIG
    found = [*(each for inspection in inspections for each in inspection.warnings)]
    warnings = dict.fromkeys([*found, *misfits_here(args.topology, inspections[0], args.node)])
    plan = plan_of(topology, args.node)
    if plan.get("jobs"):
        plan["kernels"] = _kernels(topology)
    if args.node is None or topology.speaks_mqtt(args.node):
        plan["not_installed"] = _not_installed(topology)
    if args.json:
        print(json.dumps({"valid": True, **plan, "warnings": [_as_json(w) for w in warnings]}, indent=2))
        return 0
    print("\n".join(plan_lines(plan)))
    sys.stdout.flush()
    show(tuple(warnings), sys.stderr, kind="warning")
    return 0


def _inspections(args: argparse.Namespace) -> Iterator[Inspection]:
    """The file as the node reads it; with `--strict` alone as each node of this machine does, if it has any."""
    nodes: list[str | None] = [args.node]
    if args.strict and args.node is None:
        nodes = [*nodes_here(topology_file.inspect(args.topology, lenient=True).topology)] or nodes
    for node in nodes:
        yield topology_file.inspect(
            args.topology,
            os.environ if node is None else environment_of(node),
            lenient=not args.strict,
            node=node,
            look_up_backbone=look_up,
            check_tls=_check_tls if args.strict else None,
        )


def _check_tls(files: Security | Tls, at: str) -> tuple[list[Finding], list[Finding]]:
    from edged.adapters import tls  # noqa: PLC0415 - only this part of the command needs it

    return [*tls.problems(files, at), *tls.expired(files, at)], tls.exposed(files, at)


# the plan


def _kernels(topology: Topology) -> Plan:
    """What computes the layers on this machine, which need not be one of the site's.

    `left_out`: why better kernels are not used. `numpy_jobs`: those that ask for numpy where compiled kernels compute
    others.
    """
    told_to = [job.name for job in topology.jobs if job.kernels == NUMPY]
    reason = "training.kernels says so"
    if len(told_to) < len(topology.jobs):
        try:
            backend = compiled()
        except KernelsUnavailable as error:
            reason = str(error)
        else:
            return {
                "backend": backend.name,
                "instructions": backend.instructions,
                "left_out": list(backend.left_out),
                "reason": None,
                "numpy_jobs": told_to,
            }
    return {"backend": NUMPY, "instructions": None, "left_out": [], "reason": reason, "numpy_jobs": []}


def _not_installed(topology: Topology) -> list[str]:
    """What edged was installed without on this machine, of what speaks MQTT."""
    has_all = topology.mqtt is None or find_spec("paho") is not None
    return [] if has_all else [not_installed("paho, which nodes on MQTT need,", "mqtt")]


def _as_json(problem: Problem) -> Plan:
    return {
        "place": problem.place,
        "path": problem.path,
        "message": problem.message,
        "suggestion": problem.suggestion,
    }


# the plan for people
