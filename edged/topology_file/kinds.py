"""The kinds of values in the file. Each reads a node and describes itself as JSON Schema: one description for both.

A kind never raises: what is wrong goes to the Reading, and a placeholder takes the value's place so that reading
goes on.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Protocol, cast

import yaml

from edged.domain.suggest import did_you_mean, nearest
from edged.domain.topology import NAME_PATTERN
from edged.domain.validation.memory import mebibytes
from edged.topology_file.reading import Reading, join, short
from edged.topology_file.variables import has_expression

Schema = dict[str, Any]

_VARIABLE: Schema = {"type": "string", "pattern": r"\$\{", "description": "${VAR}, ${VAR:-default} or ${cred:NAME}"}


class Kind(Protocol):
    """What may stand at a place."""

    def read(self, node: yaml.Node, at: str, reading: Reading) -> Any:
        """The value; wrong ones are noted in `reading`, and the placeholder comes back."""

    def placeholder(self) -> Any:
        """A value of the right type, for what could not be read."""

    def schema(self) -> Schema:
        """JSON Schema (2020-12) of what `read` accepts."""


# single values


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
            return node.value if _has_variable(node) else ""
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
        return {"anyOf": [text, _VARIABLE, *([{"type": "integer", "minimum": 0}] if self.integers else [])]}


NAME = Text("a name: 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or a digit", NAME_PATTERN[1:-1])
ADDRESS = Text('host:port, such as "broker.lan:9092"', r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", 300)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def read(self, node: yaml.Node, at: str, reading: Reading) -> str:
        text = reading.text(node, at, f"one of {', '.join(self.words)}")
        if text is None or text in self.words:
            return text or self.words[0]
        named = '"' + short(text) + '"' if not _has_variable(node) else "the variable's value"
        suggestion = "" if _has_variable(node) else did_you_mean(text, self.words)
        reading.wrong(node, at, f"{named} is not one of {', '.join(self.words)}", suggestion)
        return self.words[0]

    def placeholder(self) -> str:
        return self.words[0]

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": list(self.words)}, _VARIABLE]}


@dataclass(frozen=True, slots=True)
class Switch:
    """true or false."""

    def read(self, node: yaml.Node, at: str, reading: Reading) -> bool:
        text = reading.scalar(node, at, "true or false")
        if text is not None and (text not in {"true", "false"} or not (_is_plain(node) or _has_variable(node))):
            reading.wrong(node, at, "expected true or false")
        return text == "true"

    def placeholder(self) -> bool:
        return False

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "boolean"}, _VARIABLE]}


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
        return {"anyOf": [{"type": "integer", "minimum": self.least, "maximum": self.most}, _VARIABLE]}


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
        return {"anyOf": [{"type": "number", **least, **most}, _VARIABLE]}


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
            word = match[2] if match and not _has_variable(node) else ""
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
        if match[2] or not self.usual or value >= self.least or _has_variable(node):
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
                _VARIABLE,
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


# values of several parts


@dataclass(frozen=True, slots=True)
class Listing:
    """A list of one kind."""

    item: Kind
    least: int = 0
    most: int = 10_000
    distinct: bool = False

    def read(self, node: yaml.Node, at: str, reading: Reading) -> tuple[Any, ...]:
        if not isinstance(node, yaml.SequenceNode):
            empty = isinstance(node, yaml.ScalarNode) and node.style is None and not node.value
            if empty:
                reading.wrong(node, at, "has no value; expected a list")
            else:
                written = isinstance(node, yaml.ScalarNode) and isinstance(self.item, Text)
                reading.wrong(node, at, "expected a list", f'such as ["{short(node.value)}"]' if written else "")
            return self.placeholder()
        if not self.least <= len(node.value) <= self.most:
            limits = f"at least {self.least}" if len(node.value) < self.least else f"at most {self.most}"
            reading.wrong(node, at, f"{len(node.value)} entries; {limits}")
            return self.placeholder()
        values = tuple(read(self.item, item, f"{at}[{i}]", reading) for i, item in enumerate(node.value))
        if self.distinct:
            self._check_distinct(node, values, at, reading)
        return values

    def _check_distinct(self, node: yaml.Node, values: Sequence[Any], at: str, reading: Reading) -> None:
        first: dict[Any, int] = {}
        for i, value in enumerate(values):
            if f"{at}[{i}]" not in reading.bad and first.setdefault(value, i) != i:
                reading.wrong(node.value[i], f"{at}[{i}]", f"the same as {at}[{first[value]}]")

    def placeholder(self) -> tuple[Any, ...]:
        return tuple(self.item.placeholder() for _ in range(self.least))

    def schema(self) -> Schema:
        result: Schema = {"type": "array", "items": self.item.schema(), "minItems": self.least, "maxItems": self.most}
        return result | ({"uniqueItems": True} if self.distinct else {})


@dataclass(frozen=True, slots=True)
class OneOrMore:
    """A list of one kind, or a single one without the list: its place is then that of the list's first entry."""

    item: Kind
    most: int

    def read(self, node: yaml.Node, at: str, reading: Reading) -> tuple[Any, ...]:
        if isinstance(node, yaml.SequenceNode):
            return Listing(self.item, 1, self.most).read(node, at, reading)
        reading.only_entries.add(f"{at}[0]")
        return (read(self.item, node, f"{at}[0]", reading),)

    def placeholder(self) -> tuple[Any, ...]:
        return ()

    def schema(self) -> Schema:
        return {"anyOf": [self.item.schema(), Listing(self.item, 1, self.most).schema()]}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two whole numbers [rows, columns], or one for both."""

    number: Whole

    def read(self, node: yaml.Node, at: str, reading: Reading) -> tuple[int, int]:
        if isinstance(node, yaml.SequenceNode):
            rows, columns = Listing(self.number, 2, 2).read(node, at, reading)
            return rows, columns
        both = self.number.read(node, at, reading)
        return both, both

    def placeholder(self) -> tuple[int, int]:
        return self.number.least, self.number.least

    def schema(self) -> Schema:
        return {"anyOf": [*self.number.schema()["anyOf"], Listing(self.number, 2, 2).schema()]}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section: what it takes, and what it is for."""

    kind: Kind
    doc: str


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with known keys, made into a value by `make`; a key without a default must stand in the file."""

    make: Callable[..., Any]
    doc: str
    keys: Mapping[str, Key]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def read(self, node: yaml.Node, at: str, reading: Reading) -> Any:
        return self.make(**self.values(node, at, reading))

    def values(self, node: yaml.Node, at: str, reading: Reading) -> dict[str, Any]:
        """The value of every key, by name."""
        values: dict[str, Any] = {}
        unknown: list[yaml.ScalarNode] = []
        for key, key_node, value in reading.entries(node, at, f"a mapping with {', '.join(self.keys)}"):
            if key in self.keys:
                values[key] = read(self.keys[key].kind, value, join(at, key), reading)
            else:
                unknown.append(key_node)
        missing = [key for key in self.keys if key not in values]
        for key_node in unknown:
            meant = nearest(key_node.value, missing)
            reading.unknown_key(key_node, at, [meant] if meant else list(self.keys))
            if meant:
                reading.bad.add(join(at, meant))
        for key in missing:
            if key in self.defaults:
                values[key] = self.defaults[key]
                continue
            values[key] = self.keys[key].kind.placeholder()
            if isinstance(node, yaml.MappingNode) and join(at, key) not in reading.bad:
                reading.wrong(node, join(at, key), "is missing", self.keys[key].doc)
        return values

    def placeholder(self) -> Any:
        return self.make(**{key: self.keys[key].kind.placeholder() for key in self.keys} | dict(self.defaults))

    def schema(self) -> Schema:
        return {
            "type": "object",
            "description": self.doc,
            "properties": {name: self._described(name, key) for name, key in self.keys.items()},
            "required": [key for key in self.keys if key not in self.defaults],
            "additionalProperties": False,
        }

    def _described(self, name: str, key: Key) -> Schema:
        default = self.defaults.get(name)
        plain = isinstance(default, str | int | float)
        return key.kind.schema() | {"description": key.doc} | ({"default": default} if plain else {})


def section(cls: type, doc: str, **keys: Key) -> Section:
    """The section whose keys are the fields of a dataclass, with its defaults.

    A duration's field ends with its unit, `flush_s`; its key does not, for its value carries one: `flush: 10s`.
    """
    assert is_dataclass(cls)
    names = {f.name for f in fields(cls)}
    field_of = {key: key if key in names else f"{key}_s" for key in keys}
    assert set(field_of.values()) == names, cls

    def make(**values: Any) -> Any:
        return cls(**{field_of.get(key, key): value for key, value in values.items()})

    key_of = {name: key for key, name in field_of.items()}
    defaults = {key_of[f.name]: f.default for f in fields(cls) if f.default is not MISSING}
    return Section(make, doc, keys, defaults)


@dataclass(frozen=True, slots=True)
class Named:
    """A mapping from names to sections; the section's `make` is given the name as well."""

    section: Section
    noun: str

    def read(self, node: yaml.Node, at: str, reading: Reading) -> tuple[Any, ...]:
        values = []
        for name, key_node, value in reading.entries(node, at, f"a mapping from {self.noun}s' names"):
            path = join(at, name)
            if reading.enter(value, path):
                NAME.read(key_node, path, reading)
                values.append(self.section.make(name=name, **self.section.values(value, path, reading)))
        if not values and at not in reading.bad:
            reading.wrong(node, at, f"at least one {self.noun}")
        return tuple(values)

    def placeholder(self) -> tuple[Any, ...]:
        return ()

    def schema(self) -> Schema:
        return {
            "type": "object",
            "propertyNames": {"pattern": NAME_PATTERN},
            "additionalProperties": self.section.schema(),
            "minProperties": 1,
        }


@dataclass(frozen=True, slots=True)
class Short:
    """A section, or just its most used value: `dense: 10` for `dense: {units: 10}`."""

    key: str
    section: Section

    def read(self, node: yaml.Node, at: str, reading: Reading) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self.section.read(node, at, reading)
        value = self.section.keys[self.key].kind.read(node, at, reading)
        return self.section.make(**{**self.section.defaults, self.key: value})

    def placeholder(self) -> Any:
        return self.section.placeholder()

    def schema(self) -> Schema:
        return {"anyOf": [self.section.keys[self.key].kind.schema(), self.section.schema()]}


@dataclass(frozen=True, slots=True)
class Word:
    """A value that is complete with its name: `flatten`."""

    value: Any

    def read(self, node: yaml.Node, at: str, reading: Reading) -> Any:
        reading.wrong(node, at, "takes no settings", "write the word alone")
        return self.value

    def placeholder(self) -> Any:
        return self.value

    def schema(self) -> Schema:
        return {}


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several things by name, `{name: settings}`; or the name alone where there is nothing to set."""

    noun: str
    kinds: Mapping[str, Kind]

    def read(self, node: yaml.Node, at: str, reading: Reading) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._word(node, at, reading)
        entries = list(reading.entries(node, at, f"a {self.noun}: {', '.join(self.kinds)}"))
        if len(entries) != 1:
            if at not in reading.bad:
                keys = ", ".join(short(key) for key, *_ in entries) or "none"
                reading.wrong(
                    node,
                    at,
                    f"expected one {self.noun}, found keys: {keys}",
                    "indent its settings further than its name",
                )
            return self.placeholder()
        name, key_node, value = entries[0]
        if name not in self.kinds:
            self._unknown(key_node, at, name, reading)
            return self.placeholder()
        return read(self.kinds[name], value, join(at, name), reading)

    def _word(self, node: yaml.ScalarNode, at: str, reading: Reading) -> Any:
        name = reading.text(node, at, f"a {self.noun}")
        kind = self.kinds.get(name) if name is not None else None
        if kind is None:
            if name is not None:
                self._unknown(node, at, name, reading)
            return self.placeholder()
        if not _is_complete(kind):
            reading.wrong(node, at, f"{name} needs its settings", f"such as {{{name}: …}}")
        return kind.placeholder()

    def _unknown(self, node: yaml.Node, at: str, name: str, reading: Reading) -> None:
        suggestion = "" if _has_variable(node) else did_you_mean(name, self.kinds)
        named = "" if _has_variable(node) else f' "{short(name)}"'
        reading.wrong(node, at, f"unknown {self.noun}{named}", suggestion or f"known: {', '.join(self.kinds)}")

    def placeholder(self) -> Any:
        return next(iter(self.kinds.values())).placeholder()

    def schema(self) -> Schema:
        words = [name for name, kind in self.kinds.items() if _is_complete(kind)]
        mappings = [
            {"type": "object", "properties": {name: kind.schema()}, "required": [name], "additionalProperties": False}
            for name, kind in self.kinds.items()
            if not isinstance(kind, Word)
        ]
        return {"anyOf": [*([{"enum": words}] if words else []), *mappings]}


def read(kind: Kind, node: yaml.Node, at: str, reading: Reading) -> Any:
    """The value at `at`; its placeholder when the node was refused."""
    return kind.read(node, at, reading) if reading.enter(node, at) else kind.placeholder()


def _is_complete(kind: Kind) -> bool:
    return isinstance(kind, Word) or (isinstance(kind, Section) and not kind.schema()["required"])


def _is_plain(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None


def _has_variable(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and has_expression(node.value)


def _number(node: yaml.Node, at: str, reading: Reading, expected: str) -> str | None:
    """The characters of a number; quotes make it text unless a variable is inside."""
    text = reading.scalar(node, at, expected)
    if text is not None and not _is_plain(node) and not _has_variable(node):
        reading.wrong(node, at, f"expected {expected}", "write it without quotes")
        return None
    return text


def _but(node: yaml.Node) -> str:
    return "" if _has_variable(node) else f", not {short(cast('yaml.ScalarNode', node).value)}"
