"""Arguments that several commands have; their names, defaults and help are the same everywhere."""

import argparse
from pathlib import Path

_LOG_LEVELS = ("debug", "info", "warning", "error")


def add_topology(parser: argparse.ArgumentParser) -> None:
    """TOPOLOGY, as `args.topology`."""
    parser.add_argument("topology", type=Path, metavar="TOPOLOGY", help="the topology file")


def add_log_level(parser: argparse.ArgumentParser) -> None:
    """`--log-level`, as `args.log_level`."""
    parser.add_argument(
        "--log-level",
        choices=_LOG_LEVELS,
        default="info",
        metavar="LEVEL",
        help=f"log from this level on: {', '.join(_LOG_LEVELS)} (info)",
    )
