"""Lists of one kind of value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from edged.domain.counted import counted
from edged.topology_file.kinds.kind import Kind, Schema, has_variable, read
from edged.topology_file.kinds.scalars import Text, Whole
from edged.topology_file.reading import Reading, short


@dataclass(frozen=True, slots=True)
class Listing:
    """A list of one kind."""

    item: Kind
    min_items: int = 0
    max_items: int = 10_000
    is_distinct: bool = False

    def read(self, node: yaml.Node, at: str, reading: Reading) -> tuple[Any, ...]:
        if not isinstance(node, yaml.SequenceNode):
            if isinstance(node, yaml.ScalarNode) and node.style is None and not node.value:
                reading.wrong(node, at, "has no value; expected a list")
            else:
                is_text = isinstance(node, yaml.ScalarNode) and isinstance(self.item, Text)
                reading.wrong(node, at, "expected a list", f'such as ["{short(node.value)}"]' if is_text else "")
            return self.placeholder()
        if not self.min_items <= len(node.value) <= self.max_items:
            limits = f"at least {self.min_items}" if len(node.value) < self.min_items else f"at most {self.max_items}"
            reading.wrong(node, at, f"{counted(len(node.value), 'entry')}; {limits}")
            return self.placeholder()
        values = tuple(read(self.item, item, f"{at}[{i}]", reading) for i, item in enumerate(node.value))
        if self.is_distinct:
            self._check_distinct(node, values, at, reading)
        return values

    def _check_distinct(self, node: yaml.Node, values: Sequence[Any], at: str, reading: Reading) -> None:
        first: dict[Any, int] = {}
        for i, value in enumerate(values):
            if f"{at}[{i}]" not in reading.bad and first.setdefault(value, i) != i:
                reading.wrong(
                    node.value[i],
                    f"{at}[{i}]",
                    f"the same as {at}[{first[value]}]{_written(node.value, first[value], i)}",
                )

    def placeholder(self) -> tuple[Any, ...]:
        return tuple(self.item.placeholder() for _ in range(self.min_items))

    def schema(self) -> Schema:
        result: Schema = {
            "type": "array",
            "items": self.item.schema(),
            "minItems": self.min_items,
            "maxItems": self.max_items,
        }
        return result | ({"uniqueItems": True} if self.is_distinct else {})


def _written(nodes: Sequence[yaml.Node], i: int, j: int) -> str:
    """How the same value is written in two ways, of which one may be invisible; empty if it is not."""
    one, other = nodes[i], nodes[j]
    if has_variable(one) or has_variable(other) or one.value == other.value:
        return ""
    both = one.value, other.value
    return ', written "{}" and "{}"'.format(*(short(each, beside=both) for each in both))


@dataclass(frozen=True, slots=True)
class OneOrMore:
    """A list of one kind, or a single one without the list, which then has the path of a list's first entry."""

    item: Kind
    max_items: int

    def read(self, node: yaml.Node, at: str, reading: Reading) -> tuple[Any, ...]:
        if isinstance(node, yaml.SequenceNode):
            return Listing(self.item, 1, self.max_items).read(node, at, reading)
        reading.only_entries.add(f"{at}[0]")
        return (read(self.item, node, f"{at}[0]", reading),)

    def placeholder(self) -> tuple[Any, ...]:
        return ()

    def schema(self) -> Schema:
        return {"anyOf": [self.item.schema(), Listing(self.item, 1, self.max_items).schema()]}


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
        return self.number.minimum, self.number.minimum

    def schema(self) -> Schema:
        return {"anyOf": [*self.number.schema()["anyOf"], Listing(self.number, 2, 2).schema()]}
