"""The table of events and the package's source agree, and the schema made from the table is a valid one."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import edged
from edged.events import COMMON, EVENTS, json_schema
from edged.log import logger

PACKAGE = Path(edged.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
DOTTED = re.compile(r"[a-z_]+\.[a-z_]+")
SCHEMAS = dict(zip(sorted(EVENTS), json_schema()["oneOf"], strict=True))
"""Of each event."""
EXAMPLE = {str: "text", int: 3, float: 0.5, bool: True, list: ["a"], dict: {"a": 1}}


@cache
def sources() -> list[ast.Module]:
    return [ast.parse(path.read_text(), str(path)) for path in PACKAGE.rglob("*.py") if path != PACKAGE / "events.py"]


def texts(node: ast.AST) -> set[str]:
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def logged_names(module: ast.Module) -> set[str]:
    """Dotted literals that stand where a logging method takes the event (also both sides of `a if b else c`)."""
    calls = [node for node in ast.walk(module) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    events = [call.args[0] for call in calls if call.func.attr in LEVELS and call.args]  # type: ignore[attr-defined]
    return {text for event in events for text in texts(event) if DOTTED.fullmatch(text)}


def test_every_event_that_the_source_logs_is_registered():
    logged = {name for module in sources() for name in logged_names(module)}
    assert logged  # the scan finds what it looks for
    assert logged - EVENTS.keys() == set()


def test_every_registered_event_is_logged_somewhere():
    mentioned = {text for module in sources() for text in texts(module)}
    assert EVENTS.keys() - mentioned == set()


def test_events_are_named_family_dot_what_and_their_fields_hide_no_common_one():
    for name, spec in EVENTS.items():
        assert DOTTED.fullmatch(name), name
        assert spec.doc.endswith("."), name
        assert spec.optional <= spec.fields.keys(), name
        assert not spec.fields.keys() & COMMON.keys(), name


def test_the_schema_is_valid_json_schema_2020_12():
    Draft202012Validator.check_schema(json_schema())


def test_no_line_follows_the_schemas_of_two_events():
    """So that a line follows `oneOf` all of them just if it follows its own event's, to which each is held here."""
    for name, schema in SCHEMAS.items():
        assert schema["properties"]["event"] == {"const": name}
        assert "event" in schema["required"]
    Draft202012Validator(json_schema()).validate(line_of("life.ready"))


def line_of(name):
    common = {key: EXAMPLE[kind] for key, kind in COMMON.items()}
    return {**common, "event": name, **{key: EXAMPLE[kind] for key, kind in EVENTS[name].fields.items()}}


@pytest.mark.parametrize("name", sorted(EVENTS))
@pytest.mark.parametrize("with_optional", [False, True])
def test_a_logged_line_follows_the_schema_and_one_with_a_field_more_or_less_does_not(log_lines, name, with_optional):
    spec = EVENTS[name]
    given = spec.fields if with_optional else spec.fields.keys() - spec.optional
    logger().info(name, **{field: EXAMPLE[spec.fields[field]] for field in given})
    (line,) = log_lines()
    validator = Draft202012Validator(SCHEMAS[name])
    validator.validate(line)
    assert not validator.is_valid({**line, "payload": "never"})
    assert not validator.is_valid({key: value for key, value in line.items() if key != "run_id"})
