"""One reading of a file: the place of each value, and all problems so far.

Kinds read nodes through it. Independent of the kinds and of the topology.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import yaml

from edged.domain.suggest import did_you_mean
from edged.domain.text import shown
from edged.domain.validation.finding import Finding
from edged.errors import Problem
from edged.topology_file.document import Document, RefusedNode, is_secret
from edged.topology_file.variables import (
    MissingError,
    VariableError,
    Variables,
    credentials_in,
    has_expression,
    is_reference,
)

_IMPLICIT = {
    "tag:yaml.org,2002:bool": "a yes or no",
    "tag:yaml.org,2002:int": "a number",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:timestamp": "a date",
    "tag:yaml.org,2002:merge": "a merge",
    "tag:yaml.org,2002:value": "a default",
}
_MAX_SHOWN = 64
NODE_SPECIFIC = re.compile(r"site|kafka\..*|mqtt\..*|archive\[\d+\]\.(url|s3\..*|hdfs\..*)")
"""Names and addresses, which differ from node to node and do not affect the plan."""

OF_KAFKA = re.compile(r"kafka\..*")
"""What only those need who talk to Kafka."""

OF_SOME = {"mqtt": re.compile(r"mqtt\..*"), "store": re.compile(r"archive\[\d+\]\.(s3|hdfs)\..*")}
"""What only those nodes need who speak MQTT, or reach the archive's store; who does is known when all is read."""


def needed_by(at: str) -> str:
    """The key of OF_SOME that the path belongs to; "" when every node needs it."""
    return next((what for what, pattern in OF_SOME.items() if pattern.fullmatch(at)), "")


@dataclass(slots=True)
class Reading:
    """Collects problems instead of raising them, so that one reading finds all.

    `bad`: paths whose values could not be read, and have placeholders. `missing`: those of values that come from
    outside, and are not there; what stands around them is known. `only_entries`: paths such as training[0] of
    what stands in the file without the list that it may be in. `may_miss`: paths at which a missing variable or
    credential is only a warning. `missing_of`: those of OF_SOME, by its keys, which most nodes can do without.
    `credentials`: the names of those that values refer to, with the first one's path.
    """

    document: Document
    variables: Variables
    problems: list[tuple[yaml.Mark, Finding]] = field(default_factory=list)
    warnings: list[tuple[yaml.Mark, Finding]] = field(default_factory=list)
    marks: dict[str, yaml.Mark] = field(default_factory=dict)
    bad: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    only_entries: set[str] = field(default_factory=set)
    may_miss: re.Pattern[str] | None = None
    missing_of: list[tuple[str, yaml.Node, str, VariableError]] = field(default_factory=list)
    credentials: dict[str, str] = field(default_factory=dict)

    def enter(self, node: yaml.Node, at: str) -> bool:
        """Record the place of `at`. False when the document refused the node."""
        self.marks[at] = node.start_mark
        if isinstance(node, RefusedNode):
            self.bad.add(at)
            return False
        return True

    def wrong(self, node: yaml.Node, at: str, message: str, suggestion: str = "") -> None:
        """Record that the value at `at` cannot be used."""
        self.bad.add(at)
        self.problems.append((node.start_mark, Finding(at, message, suggestion)))

    def text(self, node: yaml.Node, at: str, expected: str, *, secret: bool = False) -> str | None:
        """The node's text with variables expanded; None, with a problem recorded, when it is not text.

        Refuses what YAML 1.1 takes for something else, such as an unquoted no, 12:30 or 0777.
        """
        raw = self.scalar(node, at, expected)
        if raw is None or not isinstance(node, yaml.ScalarNode):
            return None
        taken_for = _IMPLICIT.get(node.tag) if node.style is None else None
        if taken_for and not has_expression(node.value):
            shown = "this" if secret else short(node.value)
            self.wrong(
                node, at, f"YAML reads {shown} as {taken_for}", f"put it in quotes: {quoted(shown, secret=secret)}"
            )
            return None
        return raw

    def scalar(self, node: yaml.Node, at: str, expected: str) -> str | None:
        """The scalar's characters with variables expanded, whatever YAML takes them for; None when it is no scalar."""
        if not isinstance(node, yaml.ScalarNode):
            self.wrong(node, at, f"expected {expected}, not {shape_of(node)}")
            return None
        if node.style is None and node.tag == "tag:yaml.org,2002:null":
            self.wrong(node, at, f"has no value; expected {expected}")
            return None
        for name in credentials_in(node.value):
            if name not in self.credentials or needed_by(self.credentials[name]):
                self.credentials[name] = at
        try:
            text = self.variables.expand(node.value)
            text.encode()
            self._warn_of_exposure(node, at)
        except VariableError as error:
            self._lacks(node, at, error)
            return None
        except UnicodeEncodeError:
            self.wrong(node, at, "half a surrogate pair is not a character")
            return None
        return text

    def _warn_of_exposure(self, node: yaml.ScalarNode, at: str) -> None:
        for expression, exposed in self.variables.exposed.items():
            if expression in node.value:
                self.warnings.append((node.start_mark, Finding(at, exposed.message, exposed.mended)))

    def require(self, what: str) -> None:
        """What is missing of that key of OF_SOME is needed: have it told."""
        for of, node, at, error in self.missing_of:
            if of == what:
                self._tell_missing(node, at, error)

    def _lacks(self, node: yaml.Node, at: str, error: VariableError) -> None:
        if not isinstance(error, MissingError):
            self.wrong(node, at, error.message, error.suggestion)
        elif of := needed_by(at):
            self.missing.add(at)
            self.missing_of.append((of, node, at, error))
        else:
            self._tell_missing(node, at, error)

    def _tell_missing(self, node: yaml.Node, at: str, error: VariableError) -> None:
        if self.may_miss is None or not self.may_miss.fullmatch(at):
            self.wrong(node, at, error.message, error.suggestion)
            return
        self.missing.add(at)
        self.warnings.append((node.start_mark, Finding(at, f"{error.message}; the node will need it")))

    def entries(self, node: yaml.Node, at: str, expected: str) -> Iterator[tuple[str, yaml.ScalarNode, yaml.Node]]:
        """(key, its node, its value's node) of a mapping, each key once; anything else is recorded as a problem."""
        if not isinstance(node, yaml.MappingNode):
            empty = isinstance(node, yaml.ScalarNode) and node.style is None and not node.value
            self.wrong(
                node,
                at,
                f"has no value; expected {expected}" if empty else f"expected {expected}, not {shape_of(node)}",
            )
            return
        lines: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, RefusedNode):
                continue
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append((key.start_mark, Finding(at, f"a key is a plain word, not {shape_of(key)}")))
            elif key.tag == "tag:yaml.org,2002:merge":
                finding = Finding(at, "merge keys (<<) have no place in a topology file", "write the values out")
                self.problems.append((key.start_mark, finding))
            elif key.value in lines:
                message = f"the key stands here twice, first in line {lines[key.value]}"
                self.problems.append((key.start_mark, Finding(join(at, key.value), message)))
            else:
                lines[key.value] = key.start_mark.line + 1
                yield key.value, key, value

    def unknown_key(self, node: yaml.ScalarNode, at: str, known: Iterable[str]) -> None:
        """Record a key that the section does not have."""
        suggestion = did_you_mean(node.value, known) or f"known here: {', '.join(known)}"
        self.problems.append(
            (node.start_mark, Finding(join(at, node.value), f"unknown key {quoted(node.value)}", suggestion))
        )

    def warn_of_literal_secret(self, node: yaml.Node, at: str) -> None:
        """Record a warning if the secret stands in the file itself."""
        if isinstance(node, yaml.ScalarNode) and not is_reference(node.value):
            self.warnings.append(
                (
                    node.start_mark,
                    Finding(
                        at,
                        "a secret stands in the file, which goes to every node",
                        'write "${cred:NAME}" for a systemd credential, or "${VARIABLE}"',
                    ),
                )
            )

    def is_independent(self, finding: Finding) -> bool:
        """Whether the finding is more than a consequence of a value that could not be read, or is not there."""
        bad, missing = (paths | {_any_index(path) for path in paths} for paths in (self.bad, self.missing))
        relied_on = (finding.path, *finding.needs)
        return not (
            any(_covers(a, b) or _covers(b, a) for a in relied_on for b in bad)
            or any(_covers(b, a) for a in relied_on for b in missing)
        )

    def mark_of(self, path: str) -> yaml.Mark:
        """The place of `path`, or of the innermost value around it when it is not in the file."""
        while path and path not in self.marks:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.marks[path]

    def as_problems(self, findings: Iterable[tuple[yaml.Mark, Finding]]) -> tuple[Problem, ...]:
        """The findings in the file's order, each once, with their places and without secrets."""
        ordered = sorted(dict.fromkeys(findings), key=lambda item: (item[0].line, item[0].column))
        return tuple(
            Problem(
                self._as_written(finding.path),
                self.variables.conceal(finding.message),
                self.variables.conceal(finding.suggestion),
                self.document.place(mark),
                self.document.source(mark),
            )
            for mark, finding in ordered
        )

    def _as_written(self, path: str) -> str:
        for entry in self.only_entries:
            if _covers(entry, path):
                return entry.removesuffix("[0]") + path.removeprefix(entry)
        return path


def hide_secrets(document: Document, node: yaml.Node | None, *, secret: bool = False) -> None:
    """Blank every value in the document's lines whose key names a secret, references excepted."""
    if node is None or (secret and isinstance(node, yaml.ScalarNode) and is_reference(node.value)):
        return
    if secret:
        document.hide(node)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            hide_secrets(document, item)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            word = key.value if isinstance(key, yaml.ScalarNode) else ""
            hide_secrets(document, value, secret=is_secret(word))


def public_words(node: yaml.Node | None, *, secret: bool = False) -> Iterator[str]:
    """What stands in the file as a key or a whole value, but for secrets and what comes from outside."""
    if isinstance(node, yaml.ScalarNode):
        if not secret and not has_expression(node.value):
            yield node.value
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from public_words(item, secret=secret)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            word = key.value if isinstance(key, yaml.ScalarNode) else ""
            yield from public_words(key, secret=secret)
            yield from public_words(value, secret=secret or is_secret(word))


def join(at: str, key: str) -> str:
    """The path of `key` in the mapping at `at`."""
    return f"{at}.{short(key)}" if at else short(key)


def short(text: str, *, beside: Iterable[str] = ()) -> str:
    """`text` on one line, as `text.shown`, cut to what a message has room for."""
    text = shown(text, beside=beside)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def quoted(text: str, *, secret: bool = False) -> str:
    """`text` in quotes, as it has to be written to be text; hidden if secret."""
    return '"…"' if secret else f'"{short(text)}"'


def shape_of(node: yaml.Node) -> str:
    """The form of a node, for messages."""
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a single value"


def _any_index(path: str) -> str:
    return re.sub(r"\[\d+\]", "[]", path)


def _covers(outer: str, inner: str) -> bool:
    return inner == outer or (inner.startswith(outer) and (not outer or inner[len(outer)] in ".["))
