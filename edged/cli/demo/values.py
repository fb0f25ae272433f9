"""What the options of `edged demo` take: checked while the command line is read, before anything starts."""

import argparse
import math
import re

from edged.topology_file.kinds import ADDRESS

_MAX_EDGES = 26
"""They are called pi-a to pi-z."""
_MAX_EPOCHS = 1000
_LAST_PORT = 65535


def edges(text: str) -> int:
    """How many edges."""
    return _whole(text, 1, _MAX_EDGES)


def epochs(text: str) -> int:
    """How many epochs."""
    return _whole(text, 1, _MAX_EPOCHS)


def live(text: str) -> int:
    """How many images each device publishes; none is a choice too."""
    return _whole(text, 0)


def rate(text: str) -> float:
    """Images a second."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f'"{text}" is not a number above 0')
    return value


def address(text: str) -> str:
    """A broker's."""
    if re.fullmatch(ADDRESS.pattern, text) and 0 < int(text.rpartition(":")[2]) <= _LAST_PORT:
        return text
    raise argparse.ArgumentTypeError(f'"{text}" is not HOST:PORT, such as broker.lan:9092')


def _whole(text: str, least: int, most: int | None = None) -> int:
    value = int(text) if re.fullmatch(r"[0-9]{1,18}", text) else -1
    if value < least or (most is not None and value > most):
        wanted = f"from {least} to {most}" if most is not None else f"from {least} up"
        raise argparse.ArgumentTypeError(f'"{text}" is not a whole number {wanted}')
    return value
