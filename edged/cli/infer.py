"""`edged infer`: the companion of an edge node."""

import argparse

from edged.adapters.host.allocator import without_collections
from edged.cli.arguments import add_log_level, add_topology

SUMMARY = "the companion of an edge: predict what its devices send"


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_topology(parser)
    parser.add_argument("--node", required=True, metavar="NAME", help="the edge whose companion this is")
    parser.add_argument("--job", metavar="NAME", help="the training job whose model serves (the file's first)")
    add_log_level(parser)


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM; 0 after a clean stop, 1 after a failure. SIGHUP reads the topology again."""
    with without_collections():
        from edged.app.companion import run_companion  # noqa: PLC0415 - heavy; --help answers without it
        from edged.cli.node_process import run_as  # noqa: PLC0415
        from edged.settings import Timing  # noqa: PLC0415

    return run_as(
        args,
        tiers=("edge",),
        main=lambda topology, node, read: run_companion(topology, node, read, Timing.of(), job=args.job),
        tier="infer",
    )
