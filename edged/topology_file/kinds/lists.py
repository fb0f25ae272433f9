"""Lists of one kind of value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from edged.topology_file.kinds.kind import Kind, Schema, read
from edged.topology_file.kinds.scalars import Text, Whole
from edged.topology_file.reading import Reading, short


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
