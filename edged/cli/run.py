"""`edged run`: the daemon of an edge or archive node."""

import argparse

from edged.adapters.host.allocator import without_collections
from edged.cli.arguments import add_log_level, add_topology

SUMMARY = "the daemon of a node: an edge trains, the archive keeps and serves"


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_topology(parser)
    parser.add_argument("--node", required=True, metavar="NAME", help="which node of the topology this is")
    add_log_level(parser)


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM; 0 after a clean stop, 1 after a failure. SIGHUP reads the topology again."""
    with without_collections():
        from edged.app.node import run_node  # noqa: PLC0415 - heavy; --help answers without it
        from edged.cli.node_process import run_as  # noqa: PLC0415
        from edged.settings import Timing  # noqa: PLC0415

    return run_as(
        args, tiers=("edge", "archive"), main=lambda topology, node, read: run_node(topology, node, read, Timing.of())
    )
