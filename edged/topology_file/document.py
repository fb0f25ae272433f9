"""Bytes to a tree of YAML nodes, each with its place, within limits.

Refuses what makes a YAML file dangerous or ambiguous: size, depth, anchors and aliases, tags, several documents.
Nodes are composed, never constructed, so YAML's own types do not exist here; the kind that reads a scalar decides
its meaning. Independent of what a topology is.
"""

import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from edged.errors import ConfigError, Problem
from edged.topology_file import syntax

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 20_000

_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
"""The end of a line, as PyYAML's marks count lines."""

_HIDDEN_WORD = r"pass|pasw|\bpw|secret|token|credential"
_SECRET_LINE = re.compile(rf"((?:{_HIDDEN_WORD})[\w-]*[\"']?\s*:)(.*)", re.IGNORECASE)
_URL_USER = re.compile(r"(?<=//)[^/@\s]+(?=@)")


class RefusedNode(yaml.ScalarNode):
    """Takes the place of something refused, whose problem is recorded."""


@dataclass(slots=True)
class Document:
    """The file's text by lines, its tree, and what was refused: (mark, message, suggestion).

    `lines` are for messages: `hide` blanks what must not be shown.
    """

    name: str
    lines: list[str]
    root: yaml.Node | None = None
    refused: list[tuple[yaml.Mark, str, str]] = field(default_factory=list)

    def place(self, mark: yaml.Mark) -> str:
        """The place as file:line:column, from 1."""
        return f"{self.name}:{mark.line + 1}:{mark.column + 1}"

    def source(self, mark: yaml.Mark) -> str:
        """The line of `mark`."""
        return self.lines[mark.line] if mark.line < len(self.lines) else ""

    def hide(self, node: yaml.Node) -> None:
        """Replace this node's text by dots of the same length."""
        start, end = node.start_mark, node.end_mark
        for at in range(start.line, min(end.line + 1, len(self.lines))):
            line = self.lines[at]
            first = start.column if at == start.line else 0
            last = end.column if at == end.line else len(line)
            self.lines[at] = line[:first] + "·" * (last - first) + line[last:]


def parse(content: bytes, name: str) -> Document:
    """The document in `content`. Raises ConfigError when it has no tree."""
    text = _decode(content, name)
    document = Document(name, [_URL_USER.sub(_dots, line) for line in _LINE_BREAK.split(text)])
    loader = None
    try:
        loader = _Loader(text, document)
        document.root = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        before = _LINE_BREAK.split(text[: error.position])
        mark = yaml.Mark(name, 0, len(before) - 1, len(before[-1]), None, 0)
        _fail(document, mark, f"the character U+{error.character:04X} has no place in YAML")
    except _LimitError as error:
        _fail(document, error.mark, error.message)
    except yaml.MarkedYAMLError as error:
        line, column, message, suggestion = syntax.explain(error, document.lines)
        _fail(document, yaml.Mark(name, 0, line, column, None, 0), message, suggestion)
    finally:
        if loader is not None:
            loader.dispose()
    if document.root is None:
        raise ConfigError((Problem("", "the file is empty", "config/ has examples to start from", f"{name}:1:1"),))
    return document


def _decode(content: bytes, name: str) -> str:
    if len(content) > MAX_BYTES:
        raise ConfigError((Problem("", "the file is larger than 1 MiB", place=f"{name}:1:1"),))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(errors="replace").split("\n")
        place = f"{name}:{len(before)}:{len(before[-1]) + 1}"
        raise ConfigError((Problem("", "the file is not UTF-8", "save it as UTF-8", place),)) from error


class _LimitError(Exception):
    """The file exceeds a limit."""

    def __init__(self, message: str, mark: yaml.Mark) -> None:
        super().__init__(message)
        self.message = message
        self.mark = mark


class _Loader(yaml.SafeLoader):  # the pure one: its marks are exact
    """Composes nodes, records what is refused, and stops at the limits."""

    def __init__(self, text: str, document: Document) -> None:
        super().__init__(text)
        self._document = document
        self._depth = 0
        self._num_nodes = 0

    def get_single_node(self) -> yaml.Node | None:
        """The one document's root; None for an empty file."""
        self.get_event()  # type: ignore[no-untyped-call]
        root = self.compose_document() if not self.check_event(yaml.StreamEndEvent) else None
        if not self.check_event(yaml.StreamEndEvent):
            mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            raise _LimitError("one file holds one document; this begins a second", mark)
        return root

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self._depth += 1
        self._num_nodes += 1
        if self._depth > MAX_DEPTH:
            raise _LimitError(f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
        if self._num_nodes > MAX_NODES:
            raise _LimitError(f"more than {MAX_NODES} values in one file", event.start_mark)
        try:
            return self._compose(event, parent, index)
        finally:
            self._depth -= 1

    def _compose(self, event: Any, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]
            return self._refuse(event, event, "aliases (*) have no place in a topology file", "write the value out")
        anchor, tag = event.anchor, event.tag
        event.anchor = None
        node: yaml.Node | None = super().compose_node(parent, index)
        if anchor is not None:
            return self._refuse(event, node, "anchors (&) have no place in a topology file", "put a text in quotes")
        if tag is not None:
            return self._refuse(event, node, "tags (!) have no place in a topology file", "put a text in quotes")
        return node

    def _refuse(self, event: Any, node: Any, message: str, suggestion: str) -> RefusedNode:
        self._document.refused.append((event.start_mark, message, suggestion))
        return RefusedNode("", "", event.start_mark, node.end_mark)


def _fail(document: Document, mark: yaml.Mark, message: str, suggestion: str = "") -> NoReturn:
    _hide_by_words(document)
    raise ConfigError((Problem("", message, suggestion, document.place(mark), document.source(mark)),))


def _hide_by_words(document: Document) -> None:
    """Without a tree, hide whatever follows a word for a secret in its line, or else in the lines below it."""
    below = False
    for at, line in enumerate(document.lines):
        match = _SECRET_LINE.search(line)
        if match:
            below = match[2].strip().rstrip("+-") in {"", "|", ">"}
            document.lines[at] = line[: match.start(2)] + "·" * len(match[2])
        elif below:
            below = not line.strip()
            document.lines[at] = "·" * len(line)


def is_secret(key: str) -> bool:
    """Whether a key's name implies a secret value."""
    return re.search(_HIDDEN_WORD, key, re.IGNORECASE) is not None


def _dots(match: re.Match[str]) -> str:
    return "·" * len(match[0])
