"""What a running node takes of a changed topology, and the keys of all that it does not."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from edged.domain.nn.spec import Dense, Flatten
from edged.domain.topology import (
    Adam,
    Cache,
    Device,
    Edge,
    Kafka,
    LogSettings,
    Mqtt,
    Retention,
    Security,
    Stream,
    Tls,
    Topology,
    Training,
)
from edged.domain.topology.changes import changes
from edged.topology_file import json_schema
from tests.support.valid_topology import (
    SECURE,
    VALID,
    with_device,
    with_edge,
    with_security,
    with_stream,
    with_training,
)

[ARCHIVE] = VALID.archive
OTHER = ("other",)
BROKER = Mqtt("broker.lan", Tls(ca="/ca.pem"), "u", "x7")
TWO_JOBS = replace(
    VALID, jobs=(Training("tiles", (Flatten(), Dense(2)), name="a"), Training("tiles", (Dense(2),), name="b"))
)


@pytest.mark.parametrize(
    ("new", "keys"),
    [
        (VALID, ()),
        (replace(VALID, log=LogSettings("debug")), ("log.level",)),
        (replace(VALID, log=LogSettings(resources_s=1.0)), ("log.resources",)),
        (with_training(checkpoint_s=60.0), ("training.checkpoint",)),
        (
            replace(VALID, archive=(replace(ARCHIVE, flush_s=1.0, flush_bytes=1 << 20),)),
            ("archive[vault].flush", "archive[vault].flush_bytes"),
        ),
        (replace(VALID, archive=(replace(ARCHIVE, retention=Retention(60.0)),)), ("archive[vault].retention",)),
        (with_edge(cache=Cache(disk_writes_per_day=1)), ("edges[pi-a].cache.disk_writes_per_day",)),
        (replace(VALID, iot=VALID.iot[::-1]), ()),
    ],
)
def test_a_running_node_takes_intervals_the_log_and_the_write_budget(new, keys):
    assert changes(VALID, new) == (keys, ())


@pytest.mark.parametrize(
    ("new", "keys"),
    [
        (replace(VALID, site="other"), ("site",)),
        (replace(VALID, kafka=Kafka(("broker:1",))), ("kafka.bootstrap",)),
        (with_security(bootstrap=VALID.kafka.bootstrap), tuple(
            f"kafka.security.{key}" for key in ("protocol", "mechanism", "username", "password", "ca")
        )),
        (replace(VALID, mqtt=BROKER), ("mqtt",)),
        (with_device(transport="mqtt", id="counter", receipts=True), (
            "iot[cam].transport", "iot[cam].id", "iot[cam].receipts"
        )),
        (with_stream(shape=(4, 4, 1)), ("streams[tiles].sample.shape",)),
        (with_stream(labels=("low",)), ("streams[tiles].labels",)),
        (replace(VALID, streams=(*VALID.streams, Stream("new", (1,), "uint8"))), ("streams[new]",)),
        (with_device(edge="pi-b", codec="png"), ("iot[cam].edge", "iot[cam].codec")),
        (replace(VALID, iot=VALID.iot[:1]), ("iot[mast]",)),
        (with_edge(memory_limit=1, cache=Cache(memory=1)), ("edges[pi-a].cache.memory", "edges[pi-a].memory_limit")),
        (replace(VALID, edges=(*VALID.edges, Edge("pi-c"))), ("edges[pi-c]",)),
        (replace(VALID, edges=VALID.edges[::-1]), ("edges",)),
        (replace(VALID, archive=(replace(ARCHIVE, url="file:///x", trim=True),)), (
            "archive[vault].url", "archive[vault].trim"
        )),
        (replace(VALID, archive=()), ("archive[vault]",)),
        (with_training(optimizer=Adam(), epochs=11, model=(Dense(2),)), (
            "training.model", "training.epochs", "training.optimizer"
        )),
        (replace(VALID, jobs=()), ("training",)),
        (TWO_JOBS, ("training[a]", "training[b]", "training")),
    ],
)  # fmt: skip
def test_all_else_takes_a_restart_and_is_named_by_its_key(new, keys):
    assert changes(VALID, new) == ((), keys)


def test_both_kinds_of_a_mixed_change_are_told_apart():
    new = replace(with_training(checkpoint_s=60.0, seed=1), log=LogSettings("debug"))
    assert changes(VALID, new) == (("training.checkpoint", "log.level"), ("training.seed",))


def test_the_order_of_jobs_is_a_change():
    assert changes(TWO_JOBS, replace(TWO_JOBS, jobs=TWO_JOBS.jobs[::-1])) == ((), ("training",))


def test_how_the_mqtt_broker_is_reached_takes_a_restart():
    old = replace(VALID, mqtt=BROKER)
    for changed, key in [
        (replace(BROKER, broker="other"), "mqtt.broker"),
        (replace(BROKER, window=4), "mqtt.window"),
        (replace(BROKER, tls=Tls()), "mqtt.tls.ca"),
        (replace(BROKER, tls=None), "mqtt.tls"),
        (replace(BROKER, password="x9"), "mqtt.password"),  # noqa: S106 - of a test
    ]:
        assert changes(old, replace(old, mqtt=changed)) == ((), (key,))
    assert changes(old, replace(old, mqtt=None)) == ((), ("mqtt",))


def test_no_key_tells_a_password():
    secret = replace(SECURE, password="x9")  # noqa: S106 - of a test
    old, new = (replace(VALID, kafka=Kafka(("b:1",), each)) for each in (SECURE, secret))
    assert changes(old, new) == ((), ("kafka.security.password",))


def test_every_key_is_one_of_the_file():
    """Each field of each section, changed by itself, is named as the schema names it."""

    def walk(section, schema, at):
        for name in (field.name for field in fields(section)):
            if name == "name":
                continue
            [key] = [key for key in _keys_in(section, name, at) if key]
            assert key in known, key
            value = getattr(section, name)
            if is_dataclass(value) and isinstance(value, (Cache, Security)):
                walk(value, schema, key)

    known = _schema_keys(json_schema(), "")
    for section, at in [(VALID.edges[0], "edges"), (ARCHIVE, "archive"), (VALID.jobs[0], "training"),
                        (VALID.log, "log"), (VALID.iot[0], "iot"), (VALID.streams[0], "streams")]:  # fmt: skip
        walk(section, known, at)


def _keys_in(section, name, at):
    """The keys that changing this field alone yields, without names."""
    old, new = section, replace(section, **{name: OTHER})

    def site(each) -> Topology:
        place = {"training": "jobs"}.get(at.partition(".")[0], at.partition(".")[0])
        if isinstance(each, Cache):
            each = replace(VALID.edges[0], cache=each)
        changed: dict[str, Any] = {place: each if place == "log" else (each,)}
        return replace(VALID, **changed)

    found = changes(site(old), site(new))
    return {"".join(part.partition("]")[2] or part for part in key.split("[")) for key in found.taken + found.refused}


def _schema_keys(schema, at):
    keys = set()
    for form in [schema, *schema.get("anyOf", [])]:
        inner = [form.get("items"), form.get("additionalProperties") or None]
        for each in inner:
            if isinstance(each, dict):
                keys |= _schema_keys(each, at)
        for key, value in form.get("properties", {}).items():
            path = f"{at}.{key}" if at else key
            keys |= {path} | _schema_keys(value, path)
    return keys


def test_a_new_device_is_taken_where_its_edge_has_the_stream():
    new = replace(VALID, iot=(Device("new", "pi-a", "tiles"), *VALID.iot, Device("other", "pi-b", "tiles")))
    assert changes(VALID, new) == (("iot[new]",), ("iot[other]",))
