"""Problems of the topology file for people: the place, the line, and a caret under the value."""

import os
import sys
import unicodedata
from collections.abc import Iterable
from typing import TextIO

from edged.domain.text import shown
from edged.errors import Problem

_BEFORE, _WIDTH = 60, 120


def show(problems: Iterable[Problem], stream: TextIO, kind: str = "") -> None:
    """Write each problem with its source line to `stream`; `kind` ("warning") begins the message.

    Problems one after the other at the same place, such as missing sections, share one source line.
    """
    in_colour = use_colour(stream)
    listed = list(problems)
    for problem, following in zip(listed, [*listed[1:], None], strict=False):
        head = f"{problem.place}: " if problem.place else ""
        message = str(problem)[len(head) :]
        label = f"{kind}: " if kind else ""
        print(_bold(shown(head), in_colour=in_colour) + label + shown(message), file=stream)
        if following is None or following.place != problem.place:
            for line in source_lines(problem):
                print(line, file=stream)


def complain(command: str, error: object, stream: TextIO | None = None) -> None:
    """Write what is wrong to stderr, or to `stream`. No control character of a name or a file reaches the terminal."""
    lines = f"{command}: {error}".split("\n")
    print("\n".join(map(shown, lines)), file=stream or sys.stderr)


def use_colour(stream: TextIO) -> bool:
    """Whether `stream` is a terminal and NO_COLOR is not set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def source_lines(problem: Problem) -> list[str]:
    """The source line with its number, and a line with the caret; nothing when there is no source."""
    if not problem.source.strip():
        return []
    row, column = (int(number) for number in problem.place.rsplit(":", 2)[1:])
    start = max(0, column - 1 - _BEFORE) if len(problem.source) > _WIDTH else 0
    text = _printable(problem.source[start : start + _WIDTH])
    before = text[: column - 1 - start]
    number = f"{row:>5}"
    return [f"{number} | {text}", f"{' ' * len(number)} | {_blank(before)}^"]


def _printable(text: str) -> str:
    """No control character of a file reaches the terminal; each stays one character, for the caret."""
    return "".join(c if c.isprintable() or c == "\t" else "·" for c in text)


def _blank(text: str) -> str:
    """White space as wide as `text`."""
    return "".join(_blank_of(character) for character in text)


def _blank_of(character: str) -> str:
    if character == "\t":
        return character
    if unicodedata.combining(character):
        return ""
    return "  " if unicodedata.east_asian_width(character) in "WF" else " "


def _bold(text: str, *, in_colour: bool) -> str:
    return f"\033[1m{text}\033[0m" if in_colour and text else text
