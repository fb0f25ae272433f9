"""The protocol that all kinds follow.

A kind never raises: problems go to the Reading, and a placeholder takes the value's place so that reading continues.
"""

from typing import Any, Protocol

import yaml

from edged.topology_file.reading import Reading
from edged.topology_file.variables import has_expression

Schema = dict[str, Any]

VARIABLE: Schema = {"type": "string", "pattern": r"\$\{", "description": "${VAR}, ${VAR:-default} or ${cred:NAME}"}
"""Stands for any scalar."""


class Kind(Protocol):
    """What a value in the file may be."""

    def read(self, node: yaml.Node, at: str, reading: Reading) -> Any:
        """The value; if it is wrong, `reading` gets a problem and the placeholder is returned."""

    def placeholder(self) -> Any:
        """A value of the right type, in place of one that could not be read."""

    def schema(self) -> Schema:
        """JSON Schema (2020-12) of what `read` accepts."""


def read(kind: Kind, node: yaml.Node, at: str, reading: Reading) -> Any:
    """The value at `at`; its placeholder when the node was refused."""
    return kind.read(node, at, reading) if reading.enter(node, at) else kind.placeholder()


def has_variable(node: yaml.Node) -> bool:
    """Whether any part of the scalar comes from outside the file."""
    return isinstance(node, yaml.ScalarNode) and has_expression(node.value)
