"""Topics that exist: what their settings would lose or refuse is told, and nothing else."""

from dataclasses import replace

import pytest

from edged.domain.nn.spec import Dense, Flatten
from edged.domain.topology import Archive, Device, Edge, Exchange, Kafka, Stream, Topology, Training, existing, topics
from edged.domain.topology.message_sizes import DEAD_LETTER_MESSAGE_BYTES
from edged.ports import TopicSpec
from edged.services.ingest.dead_letters import MAX_LETTER_BYTES

SITE = Topology(
    site="lab",
    kafka=Kafka(("localhost:9092",)),
    streams=(Stream("tiles", (8, 8, 3), "float32", ("x",)),),
    iot=(Device("cam", "pi", "tiles"), Device("photo", "pi", "tiles", "jpeg")),
    edges=(Edge("pi"),),
    archive=(Archive("vault", "file:///srv"),),
    jobs=(Training("tiles", (Flatten(), Dense(1)), exchange=Exchange("all_reduce")),),
)
TOPICS = {topic.name.removeprefix("lab."): topic for topic in topics.topics(SITE)}
BROKERS_DEFAULTS = {
    "cleanup.policy": "delete",
    "max.message.bytes": "1048588",
    "retention.ms": "604800000",
    "retention.bytes": "-1",
    "message.timestamp.type": "CreateTime",
}


def told(topic, **settings):
    """The settings that are told of, with the values that would do."""
    given = {name.replace("_", "."): value for name, value in settings.items()}
    return {harm.setting: harm.wanted for harm in existing.harms(SITE, TOPICS[topic], given)}


@pytest.mark.parametrize("topic", TOPICS)
def test_nothing_is_told_of_topics_as_edged_makes_them(topic):
    made = {**BROKERS_DEFAULTS, **TopicSpec(*TOPICS[topic]).settings}

    assert existing.harms(SITE, TOPICS[topic], made) == []
    assert existing.harms(SITE, TOPICS[topic], {}) == [], "what may not be seen is not judged"


@pytest.mark.parametrize("topic", ["iot.cam", "archive.tiles.pi", "epochs.pi", "predictions.pi", "train.tiles"])
@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_compaction_loses_all_but_the_newest_record_of_each_key(topic, policy):
    assert told(topic, cleanup_policy=policy) == {"cleanup.policy": "delete"}


def test_the_retention_that_the_end_of_compaction_brings_is_mended_before_it():
    compacted = {**BROKERS_DEFAULTS, "cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"}

    harms = existing.harms(SITE, TOPICS["archive.tiles.pi"], compacted)

    assert [(harm.setting, harm.effect) for harm in harms] == [
        ("retention.ms", "packs are deleted, archived or not, once cleanup.policy is delete"),
        ("cleanup.policy", "of records with the same key all but the newest are deleted"),
    ]


@pytest.mark.parametrize("policy", ["delete", "compact,delete"])
def test_checkpoints_that_are_not_compacted_go_with_age(policy):
    assert told("checkpoints.tiles", cleanup_policy=policy) == {"cleanup.policy": "compact"}


def test_packs_are_kept_until_archived():
    assert told("archive.tiles.pi", retention_ms="604800000", retention_bytes="1000") == {
        "retention.ms": "-1",
        "retention.bytes": "-1",
    }


@pytest.mark.parametrize(("topic", "ms", "wanted"), [("epochs.pi", 60_000, 3_600_000), ("train.tiles", 1, 86_400_000)])
def test_retention_shorter_than_an_outage_is_told(topic, ms, wanted):
    assert told(topic, retention_ms=str(ms)) == {"retention.ms": str(wanted)}
    assert told(topic, retention_ms=str(wanted)) == told(topic, retention_ms="-1") == {}


@pytest.mark.parametrize(
    ("topic", "needed"),
    [
        ("iot.cam", 8 * 8 * 3 * 4 + 1024),
        ("archive.tiles.pi", 1 << 20),
        ("epochs.pi", 2 << 20),
        ("archive.requests", 4 << 20),
        ("dead-letters.pi", DEAD_LETTER_MESSAGE_BYTES),
        ("checkpoints.tiles", 1 << 20),
    ],
)
def test_topics_that_take_too_little_are_told(topic, needed):
    assert told(topic, max_message_bytes=str(needed - 1)) == {"max.message.bytes": str(needed)}
    assert told(topic, max_message_bytes=str(needed)) == {}


def test_how_large_a_photograph_is_nobody_knows():
    assert told("iot.photo", max_message_bytes="1000") == {}


def test_a_dead_letter_fits_what_its_topic_should_take():
    assert DEAD_LETTER_MESSAGE_BYTES > MAX_LETTER_BYTES


def test_a_writers_clock_must_not_decide_what_is_kept():
    assert told("train.tiles", message_timestamp_type="CreateTime") == {"message.timestamp.type": "LogAppendTime"}


def test_what_makes_no_sense_is_not_judged():
    assert told("epochs.pi", retention_ms="for ever", max_message_bytes="") == {}


def test_too_few_partitions_for_several_archive_nodes_are_told_with_the_command_that_adds_some():
    nodes = tuple(Archive(name, "s3://b/edged") for name in ("north", "south", "west"))
    site = replace(SITE, edges=tuple(Edge(f"pi-{number}") for number in range(4)), archive=nodes)
    [requests] = [topic for topic in topics.topics(site) if topic.name == site.requests_topic]

    harm = existing.too_few_partitions(site, requests, 1)

    assert harm == existing.Harm("lab.archive.requests", "partitions", "1", "4", "2 archive nodes answer no edge")
    assert existing.command(site, harm) == (
        "kafka-topics.sh --bootstrap-server localhost:9092 --alter --topic lab.archive.requests --partitions 4"
    )
    assert existing.too_few_partitions(site, requests, 3) is None, "one for each node"
    assert existing.too_few_partitions(site, requests, 0) is None, "it is made as it should be"
    assert existing.too_few_partitions(SITE, TOPICS["archive.requests"], 1) is None
