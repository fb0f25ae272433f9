"""The table of faults names tests that there are, and misses none of its rows."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "tests" / "faults" / "README.md").read_text()
NUM_ROWS = (36, 8, 11)
_ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.*?) ?\| (.*?) ?\|$", re.MULTILINE)
ROWS = _ROW.findall(TABLE)


@cache
def functions_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_row_is_there():
    expected = [number for rows in NUM_ROWS for number in range(1, rows + 1)]
    assert [int(number) for number, *_ in ROWS] == expected


@pytest.mark.parametrize("row", range(sum(NUM_ROWS)))
def test_a_row_is_shown_by_tests_that_there_are_or_says_that_it_is_open(row):
    _number, fault, shown, is_open = ROWS[row]
    names = re.findall(r"`([^`]+)`", shown)
    assert names or is_open, fault
    for name in names:
        path, _, function = name.partition("::")
        assert (ROOT / path).is_file(), name
        assert not function or function in functions_in(path), name
