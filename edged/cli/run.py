"""`edged run`: the daemon of an edge or archive node."""

import argparse
from pathlib import Path

SUMMARY = "the daemon of a node: an edge trains, the archive keeps and serves"


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("topology", type=Path, help="the topology file")
    parser.add_argument("--node", required=True, metavar="NAME", help="which node of the topology this is")


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM; 0 after a clean stop, 1 after a failure."""
    from edged.app import run_node  # noqa: PLC0415 - heavy; --help answers without it
    from edged.cli.node import run_as  # noqa: PLC0415

    return run_as(args.topology, args.node, tiers=("edge", "archive"), main=run_node)
