"""Values that may be written in several ways, and one of several things by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from edged.domain.suggest import did_you_mean
from edged.topology_file.kinds.kind import Kind, Schema, has_variable, read
from edged.topology_file.kinds.sections import Section
from edged.topology_file.reading import Reading, join, short


@dataclass(frozen=True, slots=True)
class Short:
    """A section, or the value of its main key alone: `dense: 10` for `dense: {units: 10}`."""

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
    """A value without settings: `flatten`."""

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
    """One of several things by name, `{name: settings}`; or the name alone if no setting is required."""

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
        suggestion = "" if has_variable(node) else did_you_mean(name, self.kinds)
        shown = "" if has_variable(node) else f' "{short(name)}"'
        reading.wrong(node, at, f"unknown {self.noun}{shown}", suggestion or f"known: {', '.join(self.kinds)}")

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


def _is_complete(kind: Kind) -> bool:
    return isinstance(kind, Word) or (isinstance(kind, Section) and not kind.schema()["required"])
