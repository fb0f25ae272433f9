"""Any content gives a Topology or a ConfigError with places, never another exception."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from edged import topology_file
from edged.domain.topology import Topology
from edged.errors import ConfigError
from tests.support.properties import examples

VALID = (Path(__file__).parents[2] / "config" / "02-greenhouse.yaml").read_text()
TREE = yaml.safe_load(VALID)

PLACE = re.compile(r".*topology\.yaml:\d+:\d+")
lenient = examples(100, allowed=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def judge(tmp_path):
    """Loads bytes, and checks that the result is a Topology or a ConfigError."""

    def judge_content(content):
        path: Path = tmp_path / "topology.yaml"
        path.write_bytes(content)
        judged: Topology | ConfigError
        try:
            judged = topology_file.load(path, {"HOME": "/home"})
        except ConfigError as error:
            judged = error
        assert isinstance(judged, Topology | ConfigError)
        if isinstance(judged, ConfigError):
            assert judged.problems
            assert all(PLACE.fullmatch(problem.place) and problem.message for problem in judged.problems)
        return judged

    return judge_content


@lenient
@given(st.integers(0, len(VALID)), st.integers(0, 12), st.text(max_size=6) | st.sampled_from("[]{}:,&*!|>'\"%@`#-\n\t"))
def test_a_file_with_a_piece_replaced(judge, at, length, piece):
    judge((VALID[:at] + piece + VALID[at + length :]).encode("utf-8", "surrogatepass"))


@lenient
@given(st.binary(max_size=200))
def test_any_bytes(judge, content):
    judge(content)


@lenient
@given(st.integers(0, len(VALID) - 1), st.integers(1, 255))
def test_a_file_with_a_byte_altered(judge, at, flip):
    content = bytearray(VALID.encode())
    content[at] ^= flip
    judge(bytes(content))


def paths(tree, at=()):
    """The path of every value in `tree`."""
    yield at
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield from paths(tree[key], (*at, key))


def replaced(tree, path, value):
    """`tree` with the value at `path` replaced; with an Ellipsis, left out."""
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if value is ... and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = replaced(copy[path[0]], path[1:], value)
    return copy


PATHS = [path for path in paths(TREE) if path]
odd = st.sampled_from(
    [
        ..., None, True, "", "no", "x", "${HOME}", "${", "${cred:x}", 0, -1, 3, 1e9, 10**30, 0.5, float("nan"),
        float("inf"), [], {}, [1, 2], {"a": 1}, ["x", "x"], "a" * 70, "1MiB", "\ud800",
    ]
)  # fmt: skip


@lenient
@given(st.lists(st.tuples(st.sampled_from(PATHS), odd), min_size=1, max_size=4))
def test_a_topology_with_values_replaced_or_left_out(judge, changes):
    tree = TREE
    for path, value in changes:
        try:
            tree = replaced(tree, path, value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change removed the path
    judge(yaml.safe_dump(tree, allow_unicode=False).encode())


NAMED = {"fashion", "conv2d", "max_pool2d", "dense", "sgd"}
"""Keys that name one of several things rather than a setting."""

KEYS = [path for path in PATHS if isinstance(path[-1], str) and path[-1] not in NAMED]


def dotted(path):
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


@pytest.mark.parametrize("path", KEYS, ids=dotted)
def test_a_key_left_out_has_a_default_or_is_named(judge, path):
    judged = judge(yaml.safe_dump(replaced(TREE, path, ...)).encode())

    if isinstance(judged, ConfigError):
        assert dotted(path) in [problem.path for problem in judged.problems]
