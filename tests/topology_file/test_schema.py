"""The published schema and the loader agree, since both follow from one description."""

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from edged import topology_file
from edged.errors import ConfigError

EXAMPLES = sorted((Path(__file__).parents[2] / "config").glob("*.yaml"))
SCHEMA = topology_file.json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
VALID = yaml.safe_load(EXAMPLES[0].read_text())


@pytest.fixture
def environment(tmp_path):
    for name in ("kafka-password", "mqtt-password"):
        (tmp_path / name).write_text("x")
    return {"NODE": "pi-north", "CREDENTIALS_DIRECTORY": str(tmp_path)}


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


def test_the_schema_is_valid_json_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_valid(path, environment):
    topology_file.load(path, environment)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_schema_accepts_the_examples(path):
    VALIDATOR.validate(yaml.safe_load(path.read_text()))


def with_value(value, *path):
    """VALID with `value` at `path`."""
    tree = yaml.safe_load(EXAMPLES[0].read_text())
    at = tree
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return tree


REFUSED = {
    "an unknown key": with_value(1, "sight"),
    "another schema": with_value(2, "schema"),
    "a name with a slash": with_value("a/b", "site"),
    "an MQTT broker as a URL": with_value({"broker": "tcp://b:1883"}, "mqtt"),
    "MQTT packets above what brokers take": with_value({"broker": "b", "packet_bytes": 2_000_001}, "mqtt"),
    "TLS without settings": with_value({"broker": "b", "tls": None}, "mqtt"),
    "a kind of id that is none": with_value("number", "iot", 0, "id"),
    "a device's name with a wildcard": with_value("cam/+", "iot", 0, "name"),
    "no broker": with_value([], "kafka", "bootstrap"),
    "an unknown codec": with_value("jpg", "iot", 0, "codec"),
    "an axis of 0": with_value([0], "streams", "digits", "sample", "shape"),
    "five axes": with_value([1] * 5, "streams", "digits", "sample", "shape"),
    "no labels": with_value([], "streams", "digits", "labels"),
    "a label twice": with_value(["a", "a"], "streams", "digits", "labels"),
    "an edge without a name": with_value([{}], "edges"),
    "a size in another unit": with_value("16M", "edges", 0, "prefetch"),
    "a learning rate of 0": with_value({"sgd": {"learning_rate": 0}}, "training", "optimizer"),
    "a switch in words": with_value({"sgd": {"nesterov": "yes"}}, "training", "optimizer"),
    "a dropout rate of 1": with_value([{"dropout": 1}, "flatten", {"dense": 10}], "training", "model"),
    "steps without an interval": with_value("step", "training", "schedule"),
    "a crop of 0": with_value({"crop": 0}, "training", "augment"),
    "an unknown optimizer": with_value({"sdg": {}}, "training", "optimizer"),
    "an unknown layer": with_value(["dens"], "training", "model"),
    "a layer that needs settings": with_value(["dense"], "training", "model"),
    "0 filters": with_value([{"conv2d": {"filters": 0, "kernel": 3}}], "training", "model"),
    "a batch in quotes": with_value("128", "training", "global_batch"),
}


@pytest.mark.parametrize("tree", REFUSED.values(), ids=REFUSED)
def test_the_schema_refuses_every_form_that_the_loader_refuses(tree, tmp_path):
    path = tmp_path / "topology.yaml"
    path.write_text(yaml.safe_dump(tree))

    with pytest.raises(ConfigError):
        topology_file.load(path, {})
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(tree)


ACCEPTED = {
    "an MQTT broker": with_value({"broker": "b", "tls": {}, "packet_bytes": "64KiB", "window": 8}, "mqtt"),
    "a size with a unit": with_value("16 MiB", "edges", 0, "prefetch"),
    "a size in bytes": with_value(16 << 20, "edges", 0, "prefetch"),
    "a duration": with_value("1.5min", "archive", 0, "flush"),
    "a number in exponents": with_value({"sgd": {"learning_rate": 1e-3}}, "training", "optimizer"),
    "an optimizer's name alone": with_value("sgd", "training", "optimizer"),
    "a variable for a number": with_value("${EPOCHS:-3}", "training", "epochs"),
    "a variable for a word": with_value("${SOURCE:-live}", "training", "source"),
    "layers for series and more": with_value(
        [{"dropout": 0.5}, {"group_norm": {"groups": 1}}, "global_avg_pool", "tanh", {"dense": 10}], "training", "model"
    ),
    "an optimizer with a switch": with_value({"sgd": {"nesterov": True}}, "training", "optimizer"),
    "a schedule": with_value({"cosine": {"warmup": 0.5}}, "training", "schedule"),
    "a schedule's name alone": with_value("cosine", "training", "schedule"),
    "augmentation": with_value({"flip": "both", "crop": 1}, "training", "augment"),
    "both layers' forms": with_value(["flatten", {"dense": {"units": 4}}, "relu", {"dense": 10}], "training", "model"),
}


@pytest.mark.parametrize("tree", ACCEPTED.values(), ids=ACCEPTED)
def test_the_schema_accepts_what_the_loader_accepts(tree, tmp_path):
    path = tmp_path / "topology.yaml"
    path.write_text(yaml.safe_dump(tree))

    topology_file.load(path, {})
    VALIDATOR.validate(tree)


def test_every_key_is_described():
    def undescribed(schema, at):
        for name, value in schema.get("properties", {}).items():
            if "description" not in value and "type" not in value:
                yield f"{at}.{name}"
            yield from undescribed(value, f"{at}.{name}")

    assert list(undescribed(SCHEMA, "")) == []
    assert SCHEMA["properties"]["edges"]["items"]["properties"]["prefetch"]["default"] == 16 << 20


def test_a_durations_key_leaves_the_unit_to_its_value():
    def keys(schema):
        for name, value in schema.get("properties", {}).items():
            yield name, value
            yield from keys(value)
        for inner in (*schema.get("anyOf", ()), schema.get("items"), schema.get("additionalProperties")):
            if inner:
                yield from keys(inner)

    names = {name for name, _ in keys(SCHEMA)}
    durations = {
        name
        for name, key in keys(SCHEMA)
        if any("|ms|s|min|" in kind.get("pattern", "") for kind in key.get("anyOf", ()))
    }

    assert durations == {"flush", "checkpoint", "resources", "age"}
    assert not [name for name in names if re.search("_(ms|s|min|h|d|seconds)$", name)]
