"""`edged replay`: fold a group's log again, report each member's contribution, and prove the members' weights.

`command`: from Kafka and checkpoint files to a report. `report`: the output. See also: `domain.group.replay` for the
fold.
"""

import argparse
from pathlib import Path

from edged.cli.arguments import add_topology

SUMMARY = "fold a group's log again: who contributed what, and proof of the weights"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = (
        "Exit codes: 1 a hash differs, or the log does not lead to a checkpoint; 65 the log or a checkpoint cannot be"
        " used; 69 Kafka does not answer."
    )
    add_topology(parser)
    parser.add_argument("--job", metavar="JOB", help="the job, by its name or its stream (the only one of a group)")
    parser.add_argument(
        "--from",
        dest="begin",
        type=Path,
        metavar="CHECKPOINT",
        help="begin here instead of at the log's first record: a checkpoint file, or a node's state folder",
    )
    parser.add_argument(
        "--prove",
        type=Path,
        action="append",
        default=[],
        metavar="CHECKPOINT",
        help="also prove these weights: a checkpoint file, or a node's state folder; may be repeated",
    )
    parser.add_argument("--steps", action="store_true", help="every step, not only every epoch")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Replay the log up to its current end; 0 if all claims about the weights hold."""
    from edged.cli.replay.command import replay_log  # noqa: PLC0415 - models and optimizers

    return replay_log(args.topology, args.job, args.begin, args.prove, with_steps=args.steps, as_json=args.json)
