"""The options that every bench has, and lists as values of options."""

import argparse
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def bench_parser(doc: str | None, quick: str) -> argparse.ArgumentParser:
    """A parser with `--quick`, of which `quick` says what it leaves out, and `--json`; described by `doc`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object, the last line of stdout")
    return parser


def several(kind: Callable[[str], T]) -> Callable[[str], list[T]]:
    """The type of values separated by commas."""
    return lambda text: [kind(each) for each in text.split(",")]
