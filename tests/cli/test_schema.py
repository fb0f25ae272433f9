"""`edged schema` prints schemas that a validator takes."""

import json

import jsonschema
import yaml

from tests.cli.conftest import VALID


def test_the_topologys_schema_takes_a_topology(edged):
    code, out, _ = edged("schema")

    assert code == 0
    jsonschema.validate(yaml.safe_load(VALID), json.loads(out))


def test_the_events_schema_takes_a_line_of_the_log(edged):
    code, out, _ = edged("schema", "--events")

    line = {"ts": "2026-01-01T00:00:00.000Z", "level": "info", "event": "life.ready", "node": "pi", "tier": "edge",
            "run_id": "1", "degraded": False}  # fmt: skip
    assert code == 0
    jsonschema.validate(line, json.loads(out))
