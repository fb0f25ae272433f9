"""Single values: text, names, words, numbers, and quantities with a unit."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import yaml

from edged.domain.suggest import did_you_mean
from edged.domain.topology import NAME_PATTERN
from edged.domain.validation.memory import mebibytes
from edged.topology_file.kinds.kind import VARIABLE, Kind, Schema, has_variable
from edged.topology_file.reading import Reading, short


@dataclass(frozen=True, slots=True)
class Text:
    """Text of at most `max_bytes` in UTF-8."""

    expected: str = "text"
    pattern: str = r"[^\x00-\x1f\x7f]+"
    max_bytes: int = 4096
    secret: bool = False
    integers: bool = False
    """Whether whole numbers count as text without quotes: labels such as 0 to 9."""

    def read(self, node: yaml.Node, at: str, reading: Reading) -> str:
        plain_integer = self.integers and _is_plain(node) and re.fullmatch("0|[1-9][0-9]{0,17}", node.value)
        text = node.value if plain_integer else reading.text(node, at, self.expected, secret=self.secret)
        if text is None:  # shown as it stands in the file when it is only missing
            return node.value if has_variable(node) else ""
        if self.secret:
            reading.warn_of_literal(node, at)
        if not re.fullmatch(self.pattern, text):
            reading.wrong(node, at, f"expected {self.expected}")
            return ""
        if len(text.encode()) > self.max_bytes:
            reading.wrong(node, at, f"longer than {self.max_bytes} bytes")
            return ""
        return text

    def placeholder(self) -> str:
        return ""

    def schema(self) -> Schema:
        text: Schema = {"type": "string", "pattern": f"^(?:{self.pattern})$", "maxLength": self.max_bytes}
        return {"anyOf": [text, VARIABLE, *([{"type": "integer", "minimum": 0}] if self.integers else [])]}


NAME = Text("a name: 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or a digit", NAME_PATTERN[1:-1])
ADDRESS = Text('host:port, such as "broker.lan:9092"', r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", 300)


FILE_PATH = Text("the path of a file")


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def read(self, node: yaml.Node, at: str, reading: Reading) -> str:
        text = reading.text(node, at, f"one of {', '.join(self.words)}")
        if text is None or text in self.words:
            return text or self.words[0]
        named = '"' + short(text) + '"' if not has_variable(node) else "the variable's value"
        suggestion = "" if has_variable(node) else did_you_mean(text, self.words)
        reading.wrong(node, at, f"{named} is not one of {', '.join(self.words)}", suggestion)
        return self.words[0]

    def placeholder(self) -> str:
        return self.words[0]

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": list(self.words)}, VARIABLE]}


@dataclass(frozen=True, slots=True)
class Switch:
    """true or false."""

    def read(self, node: yaml.Node, at: str, reading: Reading) -> bool:
        text = reading.scalar(node, at, "true or false")
        if text is not None and (text not in {"true", "false"} or not (_is_plain(node) or has_variable(node))):
            reading.wrong(node, at, "expected true or false")
        return text == "true"

    def placeholder(self) -> bool:
        return False

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "boolean"}, VARIABLE]}


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number."""

    least: int
    most: int

    def read(self, node: yaml.Node, at: str, reading: Reading) -> int:
        least, most = self.least, self.most
        expected = f"a whole number from {least} to {most}" if least < most else str(least)
        text = _number(node, at, reading, expected)
        if text is None:
            return self.least
        if not re.fullmatch(r"-?(0|[1-9][0-9]{0,18})", text) or not self.least <= int(text) <= self.most:
            reading.wrong(node, at, f"expected {expected}{_but(node)}")
            return self.least
        return int(text)

    def placeholder(self) -> int:
        return self.least

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "integer", "minimum": self.least, "maximum": self.most}, VARIABLE]}


@dataclass(frozen=True, slots=True)
class Number:
    """A number; the upper limit is excluded unless `with_most`, the lower one is if `above_least`."""

    least: float
    most: float
    above_least: bool = False
    with_most: bool = False

    def read(self, node: yaml.Node, at: str, reading: Reading) -> float:
        least = "above" if self.above_least else "from"
        most = "at most" if self.with_most else "below"
        expected = f"a number {least} {self.least:g} and {most} {self.most:g}"
        text = _number(node, at, reading, expected)
        if text is None:
            return self.placeholder()
        if not re.fullmatch(
            r"-?[0-9]{0,32}(\.[0-9]{1,32}|(?<=[0-9])\.?)([eE][-+]?[0-9]{1,3})?", text
        ) or not self._fits(float(text)):
            reading.wrong(node, at, f"expected {expected}{_but(node)}")
            return self.placeholder()
        return float(text)

    def _fits(self, value: float) -> bool:
        is_above = value > self.least if self.above_least else value >= self.least
        return is_above and (value <= self.most if self.with_most else value < self.most)

    def placeholder(self) -> float:
        return (self.least + self.most) / 2

    def schema(self) -> Schema:
        least = {"exclusiveMinimum" if self.above_least else "minimum": self.least}
        most = {"maximum" if self.with_most else "exclusiveMaximum": self.most}
        return {"anyOf": [{"type": "number", **least, **most}, VARIABLE]}


@dataclass(frozen=True, slots=True)
class _Unit:
    """A number with a unit, or without one in the base unit."""

    least: float
    most: float
    expected: str
    unit_in: Mapping[str, float]
    shown: Callable[[float], str]
    whole: bool
    zero: bool = False
    """Whether 0 will do, too."""
    usual: str = ""
    """The unit that a number below the least, written without any, was probably meant in."""

    def read(self, node: yaml.Node, at: str, reading: Reading) -> Any:
        text = reading.scalar(node, at, self.expected)
        if text is None:
            return self.placeholder()
        match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)", text)
        sexagesimal = _is_plain(node) and ":" in text
        if match is None or sexagesimal or match[2] not in self.unit_in or re.fullmatch("0[0-9]+.*", text):
            word = match[2] if match and not has_variable(node) else ""
            reading.wrong(node, at, f"expected {self.expected}", did_you_mean(word, self.unit_in) if word else "")
            return self.placeholder()
        value = float(match[1]) * self.unit_in[match[2]]
        if not (self.least <= value <= self.most or (self.zero and value == 0)):
            zero = "0, or " if self.zero else ""
            expected = f"expected {zero}{self.shown(self.least)} to {self.shown(self.most)}"
            reading.wrong(node, at, expected, self._unit_left_out(node, match, value))
            return self.placeholder()
        return int(value) if self.whole else value

    def _unit_left_out(self, node: yaml.Node, match: re.Match[str], value: float) -> str:
        if match[2] or not self.usual or value >= self.least or has_variable(node):
            return ""
        return f"{match[1]} bytes; did you mean {match[1]}{self.usual}?"

    def placeholder(self) -> Any:
        return int(self.least) if self.whole else self.least

    def schema(self) -> Schema:
        number: Schema = {"type": "integer" if self.whole else "number", "minimum": self.least, "maximum": self.most}
        units = "|".join(unit for unit in self.unit_in)
        return {
            "anyOf": [
                number,
                *([{"const": 0}] if self.zero else []),
                {"type": "string", "pattern": rf"^(?:0|[1-9][0-9]{{0,14}})(?:\.[0-9]{{1,9}})? ?(?:{units})$"},
                VARIABLE,
            ]
        }


_BYTES = {
    "": 1.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
}  # fmt: skip
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def size(least: int, most: int, *, zero: bool = False) -> Kind:
    """A number of bytes: 32MiB, 1GB, 4096; `zero`: or 0."""
    expected = "a size such as 32MiB, 1GB or 4096"
    return _Unit(least, most, expected, _BYTES, lambda n: mebibytes(int(n)), whole=True, zero=zero, usual="MiB")


def duration(least: float, most: float) -> Kind:
    """A number of seconds: 500ms, 5s, 2min, 1h, 5."""
    return _Unit(least, most, "a duration such as 500ms, 5s, 2min or 1h", _SECONDS, lambda s: f"{s:g} s", whole=False)


def _is_plain(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None


def _number(node: yaml.Node, at: str, reading: Reading, expected: str) -> str | None:
    """The characters of a number; quotes make it text unless a variable is inside."""
    text = reading.scalar(node, at, expected)
    if text is not None and not _is_plain(node) and not has_variable(node):
        reading.wrong(node, at, f"expected {expected}", "write it without quotes")
        return None
    return text


def _but(node: yaml.Node) -> str:
    return "" if has_variable(node) else f", not {short(cast('yaml.ScalarNode', node).value)}"
