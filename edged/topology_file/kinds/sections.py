"""Sections: mappings with known keys, or from names to sections."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

import yaml

from edged.domain.suggest import nearest
from edged.domain.topology import NAME_PATTERN
from edged.topology_file.kinds.kind import Kind, Schema, read
from edged.topology_file.kinds.scalars import NAME
from edged.topology_file.reading import Reading, join


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section. `doc`: its meaning, for editors."""

    kind: Kind
    doc: str


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with known keys, whose values are the arguments of `make`. A key without a default is required."""

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
        for key, key_node, value in reading.entries(node, at, self._expected()):
            if key in self.keys:
                values[key] = read(self.keys[key].kind, value, join(at, key), reading)
            else:
                unknown.append(key_node)
        missing = [key for key in self.keys if key not in values]
        for key_node in unknown:
            likely = nearest(key_node.value, missing)
            reading.unknown_key(key_node, at, [likely] if likely else list(self.keys))
            if likely:
                reading.bad.add(join(at, likely))
        for key in missing:
            if key in self.defaults:
                values[key] = self.defaults[key]
                continue
            values[key] = self.keys[key].kind.placeholder()
            if isinstance(node, yaml.MappingNode) and join(at, key) not in reading.bad:
                reading.wrong(node, join(at, key), "is missing", self.keys[key].doc)
        return values

    def _expected(self) -> str:
        or_empty = "" if self.keys.keys() - self.defaults.keys() else ", or {}"
        return f"a mapping with {', '.join(self.keys)}{or_empty}"

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
        is_scalar = isinstance(default, str | int | float)
        return key.kind.schema() | {"description": key.doc} | ({"default": default} if is_scalar else {})


def section(cls: type, doc: str, **keys: Key) -> Section:
    """The section whose keys are the fields of a dataclass, with its defaults.

    A duration's field name has a unit, `flush_s`; its key has none, for the value has one: `flush: 10s`.
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
    """A mapping from names to sections, whose `make` gets the name as well."""

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
