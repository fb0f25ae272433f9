"""`edged infer`: the companion of an edge node."""

import argparse
from pathlib import Path

SUMMARY = "the companion of an edge: predict what its devices send"


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("topology", type=Path, help="the topology file")
    parser.add_argument("--node", required=True, metavar="NAME", help="the edge whose companion this is")


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM; 0 after a clean stop, 1 after a failure."""
    from edged.app import run_companion  # noqa: PLC0415 - heavy; --help answers without it
    from edged.cli.node import run_as  # noqa: PLC0415

    return run_as(args.topology, args.node, tiers=("edge",), main=run_companion, tier="infer")
