"""Arguments that several commands have, the types of their values, and the check of `--node`.

Names, defaults and help are the same everywhere. A type raises argparse.ArgumentTypeError, which says what it takes.
"""

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from edged.domain.suggest import did_you_mean
from edged.domain.topology import LogLevel, Topology
from edged.errors import ConfigError, Problem
from edged.topology_file.kinds.scalars import ADDRESS

_LOG_LEVELS = get_args(LogLevel)
_LAST_PORT = 65535


def add_topology(parser: argparse.ArgumentParser) -> None:
    """TOPOLOGY, as `args.topology`."""
    parser.add_argument("topology", type=Path, metavar="TOPOLOGY", help="the topology file")


def add_data_set_options(parser: argparse.ArgumentParser) -> None:
    """`--from`, as `args.spec`, and how it is read: `args.header` (None: not said) and `args.follow_links`."""
    parser.add_argument(
        "--from",
        dest="spec",
        required=True,
        metavar="SPEC",
        help="fashion-mnist, fashion-mnist-small, a folder of IDX files or of images, or a CSV file",
    )
    parser.add_argument(
        "--header",
        type=_yes_or_no,
        metavar="yes|no",
        help="whether a CSV file's first line names the columns (as it looks)",
    )
    add_follow_links(parser)


def add_follow_links(parser: argparse.ArgumentParser) -> None:
    """`--follow-links`, as `args.follow_links`."""
    parser.add_argument(
        "--follow-links",
        action="store_true",
        help="follow a folder's links that lead below it, or into the store of a Hugging Face, DVC or git-annex folder",
    )


def add_log_level(parser: argparse.ArgumentParser) -> None:
    """`--log-level`, as `args.log_level`."""
    parser.add_argument(
        "--log-level",
        choices=_LOG_LEVELS,
        metavar="LEVEL",
        help=f"log from this level on: {', '.join(_LOG_LEVELS)} (the topology's log.level)",
    )


def whole_number(minimum: int = 0, maximum: int | None = None) -> Callable[[str], int]:
    """The type of a whole number in these bounds, both included."""
    wanted = f"from {minimum} up" if maximum is None else f"from {minimum} to {maximum}"

    def parse(text: str) -> int:
        value = int(text) if re.fullmatch(r"[0-9]{1,18}", text) else -1
        if value < minimum or (maximum is not None and value > maximum):
            raise argparse.ArgumentTypeError(f'"{text}" is not a whole number {wanted}')
        return value

    return parse


def _yes_or_no(text: str) -> bool:
    if text not in {"yes", "no"}:
        raise argparse.ArgumentTypeError(f'"{text}" is neither yes nor no')
    return text == "yes"


def fraction(text: str) -> float:
    """A share from 0 to below 1."""
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f'"{text}" is not a share from 0 to below 1')
    return value


def rate(text: str) -> float:
    """Samples per second, above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f'"{text}" is not a number above 0')
    return value


def rate_or_max(text: str) -> float:
    """Samples per second, above 0; infinite for "max"."""
    if text == "max":
        return math.inf
    try:
        return rate(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f'"{text}" is not a rate: samples per second above 0, or "max"') from None


def address(text: str) -> str:
    """A broker's HOST:PORT."""
    if re.fullmatch(ADDRESS.pattern, text) and 0 < int(text.rpartition(":")[2]) <= _LAST_PORT:
        return text
    raise argparse.ArgumentTypeError(f'"{text}" is not HOST:PORT, such as broker.lan:9092')


def duration(text: str) -> float:
    """Seconds, from a duration as in a topology."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|min|h|d)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f'"{text}" is not a duration such as 90s, 30min, 12h or 7d')
    return float(match[1]) * {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}[match[2]]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def require_node(topology: Topology, name: str, file: str) -> None:
    """Raises ConfigError when the topology has no node of that name."""
    if topology.tier_of(name) is None:
        known = [node.name for tier in (topology.iot, topology.edges, topology.archive) for node in tier]
        message = f'no node is called "{name}"'
        raise ConfigError((Problem("", message, did_you_mean(name, known) or f"known: {', '.join(known)}", file),))
