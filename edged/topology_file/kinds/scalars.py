"""Single values: text, names, words, numbers, and quantities with a unit."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import yaml

from edged.domain.suggest import did_you_mean
from edged.domain.text import normal_form, shown
from edged.domain.topology import NAME_PATTERN
from edged.topology_file.kinds.kind import VARIABLE, Kind, Schema, has_variable
from edged.topology_file.reading import Reading, short


@dataclass(frozen=True, slots=True)
class Text:
    """Text of at most `max_bytes` in UTF-8.

    `is_secret`: never shown, and a warning if it stands in the file. `allows_integers`: whole numbers without quotes
    are text, too: labels such as 0 to 9. `is_normal`: read in `text.normal_form`. `is_path`: the
    name of a file, whose bytes are UTF-8 as the topology file is, whatever the locale says.
    """

    expected: str = "text"
    pattern: str = r"[^\x00-\x1f\x7f]+"
    max_bytes: int = 4096
    is_secret: bool = False
    allows_integers: bool = False
    is_normal: bool = False
    is_path: bool = False

    def read(self, node: yaml.Node, at: str, reading: Reading) -> str:
        is_integer = self.allows_integers and _is_plain(node) and re.fullmatch("0|[1-9][0-9]{0,17}", node.value)
        text = node.value if is_integer else reading.text(node, at, self.expected, secret=self.is_secret)
        if text is None:  # a missing variable's expression stands for its value
            return node.value if has_variable(node) else ""
        if self.is_secret:
            reading.warn_of_literal_secret(node, at)
        if self.is_normal:
            text = normal_form(text)
        if not re.fullmatch(self.pattern, text):
            is_known = not self.is_secret and not has_variable(node)
            hidden = f', not "{short(text)}"' if is_known and shown(text) != text else ""
            reading.wrong(node, at, f"expected {self.expected}{hidden}")
            return ""
        if len(text.encode()) > self.max_bytes:
            reading.wrong(node, at, f"longer than {self.max_bytes} bytes")
            return ""
        return os.fsdecode(text.encode()) if self.is_path else text

    def placeholder(self) -> str:
        return ""

    def schema(self) -> Schema:
        text: Schema = {"type": "string", "pattern": f"^(?:{self.pattern})$", "maxLength": self.max_bytes}
        return {"anyOf": [text, VARIABLE, *([{"type": "integer", "minimum": 0}] if self.allows_integers else [])]}


NAME = Text("a name: 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or a digit", NAME_PATTERN[1:-1])
ADDRESS = Text('host:port, such as "broker.lan:9092"', r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", 300)
MQTT_ADDRESS = Text(
    'host or host:port, such as "broker.lan:1883"', r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", 300
)
ENDPOINT = Text(
    'http:// or https:// with host and port, such as "https://s3.lan:9000"',
    r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?",
    300,
)
FILE_PATH = Text("the path of a file", is_path=True)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several words."""

    words: tuple[str, ...]

    def read(self, node: yaml.Node, at: str, reading: Reading) -> str:
        text = reading.text(node, at, f"one of {', '.join(self.words)}")
        if text is None or text in self.words:
            return text or self.words[0]
        shown = '"' + short(text) + '"' if not has_variable(node) else "the variable's value"
        suggestion = "" if has_variable(node) else did_you_mean(text, self.words)
        reading.wrong(node, at, f"{shown} is not one of {', '.join(self.words)}", suggestion)
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

    minimum: int
    maximum: int

    def read(self, node: yaml.Node, at: str, reading: Reading) -> int:
        minimum, maximum = self.minimum, self.maximum
        expected = f"a whole number from {minimum} to {maximum}" if minimum < maximum else str(minimum)
        text = _number(node, at, reading, expected)
        if text is None:
            return self.minimum
        if not re.fullmatch(r"-?(0|[1-9][0-9]{0,18})", text) or not self.minimum <= int(text) <= self.maximum:
            reading.wrong(node, at, f"expected {expected}{_shown_value(node)}")
            return self.minimum
        return int(text)

    def placeholder(self) -> int:
        return self.minimum

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "integer", "minimum": self.minimum, "maximum": self.maximum}, VARIABLE]}


@dataclass(frozen=True, slots=True)
class Number:
    """A number from `minimum` to below `maximum`, unless `excludes_minimum` and `includes_maximum`."""

    minimum: float
    maximum: float
    excludes_minimum: bool = False
    includes_maximum: bool = False

    def read(self, node: yaml.Node, at: str, reading: Reading) -> float:
        above = "above" if self.excludes_minimum else "from"
        below = "at most" if self.includes_maximum else "below"
        expected = f"a number {above} {self.minimum:g} and {below} {self.maximum:g}"
        text = _number(node, at, reading, expected)
        if text is None:
            return self.placeholder()
        if not re.fullmatch(
            r"-?[0-9]{0,32}(\.[0-9]{1,32}|(?<=[0-9])\.?)([eE][-+]?[0-9]{1,3})?", text
        ) or not self._fits(float(text)):
            reading.wrong(node, at, f"expected {expected}{_shown_value(node)}")
            return self.placeholder()
        return float(text)

    def _fits(self, value: float) -> bool:
        is_above = value > self.minimum if self.excludes_minimum else value >= self.minimum
        return is_above and (value <= self.maximum if self.includes_maximum else value < self.maximum)

    def placeholder(self) -> float:
        return (self.minimum + self.maximum) / 2

    def schema(self) -> Schema:
        minimum = {"exclusiveMinimum" if self.excludes_minimum else "minimum": self.minimum}
        maximum = {"maximum" if self.includes_maximum else "exclusiveMaximum": self.maximum}
        return {"anyOf": [{"type": "number", **minimum, **maximum}, VARIABLE]}


@dataclass(frozen=True, slots=True)
class _Quantity:
    """A number with a unit, or without one in the base unit.

    `factors`: of the units. `format`: for messages. `is_whole`: read as an int. `allows_zero`: 0 is valid though below
    the minimum. `usual_unit`: suggested for a number below the minimum without a unit.
    """

    minimum: float
    maximum: float
    expected: str
    factors: Mapping[str, float]
    format: Callable[[float], str]
    is_whole: bool
    allows_zero: bool = False
    usual_unit: str = ""

    def read(self, node: yaml.Node, at: str, reading: Reading) -> Any:
        text = reading.scalar(node, at, self.expected)
        if text is None:
            return self.placeholder()
        match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)", text)
        is_sexagesimal = _is_plain(node) and ":" in text
        if match is None or is_sexagesimal or match[2] not in self.factors or re.fullmatch("0[0-9]+.*", text):
            word = match[2] if match and not has_variable(node) else ""
            reading.wrong(node, at, f"expected {self.expected}", did_you_mean(word, self.factors) if word else "")
            return self.placeholder()
        value = float(match[1]) * self.factors[match[2]]
        if not (self.minimum <= value <= self.maximum or (self.allows_zero and value == 0)):
            zero = "0, or " if self.allows_zero else ""
            expected = f"expected {zero}{self.format(self.minimum)} to {self.format(self.maximum)}"
            reading.wrong(node, at, expected, self._missing_unit(node, match, value))
            return self.placeholder()
        return int(value) if self.is_whole else value

    def _missing_unit(self, node: yaml.Node, match: re.Match[str], value: float) -> str:
        if match[2] or not self.usual_unit or value >= self.minimum or has_variable(node):
            return ""
        return f"{match[1]} bytes; did you mean {match[1]}{self.usual_unit}?"

    def placeholder(self) -> Any:
        return int(self.minimum) if self.is_whole else self.minimum

    def schema(self) -> Schema:
        number: Schema = {
            "type": "integer" if self.is_whole else "number",
            "minimum": self.minimum,
            "maximum": self.maximum,
        }
        units = "|".join(self.factors)
        return {
            "anyOf": [
                number,
                *([{"const": 0}] if self.allows_zero else []),
                {"type": "string", "pattern": rf"^(?:0|[1-9][0-9]{{0,14}})(?:\.[0-9]{{1,9}})? ?(?:{units})$"},
                VARIABLE,
            ]
        }


_BYTES = {
    "": 1.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
}  # fmt: skip
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def size(minimum: int, maximum: int, *, zero: bool = False) -> Kind:
    """A number of bytes: 32MiB, 1GB, 4096; `zero`: or 0."""
    return _Quantity(
        minimum,
        maximum,
        "a size such as 32MiB, 1GB or 4096",
        _BYTES,
        lambda n: _in_unit(n, _BYTES),
        is_whole=True,
        allows_zero=zero,
        usual_unit="MiB",
    )


def duration(minimum: float, maximum: float) -> Kind:
    """A number of seconds: 500ms, 5s, 2min, 1h, 5."""
    return _Quantity(
        minimum,
        maximum,
        "a duration such as 500ms, 5s, 2min or 1h",
        _SECONDS,
        lambda s: _in_unit(s, _SECONDS),
        is_whole=False,
    )


def _in_unit(value: float, units: Mapping[str, float]) -> str:
    """As it may stand in the file: a whole number of the last unit in which it is one."""
    numbers = {name: round(value / unit, 9) for name, unit in units.items()}
    name = next(name for name in reversed(numbers) if numbers[name].is_integer())
    return f"{numbers[name]:g}{name}"


def _is_plain(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None


def _number(node: yaml.Node, at: str, reading: Reading, expected: str) -> str | None:
    """The characters of a number; in quotes they are text, unless a variable is inside."""
    text = reading.scalar(node, at, expected)
    if text is not None and not _is_plain(node) and not has_variable(node):
        reading.wrong(node, at, f"expected {expected}", "write it without quotes")
        return None
    return text


def _shown_value(node: yaml.Node) -> str:
    """The value as a part of a message; empty for a variable, whose value is not shown."""
    return "" if has_variable(node) else f", not {short(cast('yaml.ScalarNode', node).value)}"
