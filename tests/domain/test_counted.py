"""Nouns agree with their numbers, and messages are written so everywhere."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import edged
from edged.domain.counted import counted

_PACKAGE = Path(edged.__file__).parent
_VERBS = "has|holds|waits|wants|are"
_NOUNS = (
    "addresse|axe|batche|block|channel|device|digit|edge|entrie|epoch|file|finding|hashe|image|input|item|job|label|layer"
    "|line|member|output|partition|probabilitie|problem|proof|request|row|sample|scan|step|subgraph|topic|unit|weight"
)
_NOUN = re.compile(rf" (?:(?!{_VERBS})[a-z]+ ){{0,2}}({_NOUNS})s(?![\w/])")


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "row", "0 rows"),
        (1, "row", "1 row"),
        (2, "empty file", "2 empty files"),
        (1000, "axis", "1,000 axes"),
        (1, "entry", "1 entry"),
        (3, "cache entry", "3 cache entries"),
    ],
)
def test_a_noun_agrees_with_its_number(number, noun, text):
    assert counted(number, noun) == text


def _fixed_plurals(path: Path) -> Iterator[str]:
    """Where a number that may be 1 stands before a plural that is written out."""
    for node in ast.walk(ast.parse(path.read_text())):
        parts = node.values if isinstance(node, ast.JoinedStr) else []
        for number, text in pairwise(parts):
            if isinstance(number, ast.FormattedValue) and isinstance(text, ast.Constant):
                match = _NOUN.match(str(text.value))
                if match and not _is_constant(number.value) and not _is_counted(number.value):
                    yield f"{path.relative_to(_PACKAGE)}:{number.lineno}: {{{ast.unparse(number.value)}}}{match[0]}"


def _is_constant(number: ast.expr) -> bool:
    return isinstance(number, ast.Name) and number.id.isupper()


def _is_counted(number: ast.expr) -> bool:
    return isinstance(number, ast.Call) and ast.unparse(number.func) == "counted"


def test_no_message_writes_a_plural_after_a_number_that_may_be_one():
    assert [line for path in sorted(_PACKAGE.rglob("*.py")) for line in _fixed_plurals(path)] == []
