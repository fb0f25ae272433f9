"""Topics that exist already: what their settings would do to samples.

Values only. See also: `topics` (how edged makes them), `app.supervision` and `edged topics --apply`, which look.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from edged.domain.counted import counted
from edged.domain.topology import MIB, Topology, kafka_commands
from edged.domain.topology.message_sizes import DEAD_LETTER_MESSAGE_BYTES
from edged.domain.topology.topics import SHORT_RETENTION_MS, UNTIL_ARCHIVED_MS, Topic

SETTINGS = ("cleanup.policy", "max.message.bytes", "retention.ms", "retention.bytes", "message.timestamp.type")
"""The settings that matter."""

_UNLIMITED = -1
_ITEM_BYTES = {"uint8": 1, "float32": 4}
_OVERHEAD_BYTES = 1024
"""Of a record beside its payload: batch, key, headers."""


class Harm(NamedTuple):
    """A setting of a topic that loses or refuses data, what it does, and the value that does not. Or its PARTITIONS."""

    topic: str
    setting: str
    value: str
    wanted: str
    effect: str


PARTITIONS = "partitions"
"""As a harm's setting."""


def command(topology: Topology, harm: Harm) -> str:
    """What mends it."""
    bootstrap = topology.kafka.bootstrap
    if harm.setting == PARTITIONS:
        return kafka_commands.add_partitions(bootstrap, harm.topic, int(harm.wanted))
    return kafka_commands.alter(bootstrap, harm.topic, {harm.setting: harm.wanted})


def too_few_partitions(topology: Topology, topic: Topic, partitions: int) -> Harm | None:
    """The harm of a topic that exists with as many, if any: of the requests each archive node needs one."""
    needed = min(topic.partitions, len(topology.archive))
    if topic.name != topology.requests_topic or not 0 < partitions < needed:
        return None
    idle = counted(len(topology.archive) - partitions, "archive node")
    return Harm(topic.name, PARTITIONS, str(partitions), str(topic.partitions), f"{idle} answer no edge")


def harms(topology: Topology, topic: Topic, settings: Mapping[str, str]) -> list[Harm]:
    """What these settings of the topic lose or refuse; settings that are not there are not judged."""
    return [
        Harm(topic.name, setting, settings[setting], wanted, effect)
        for setting, wanted, effect in _wrong(topology, topic, settings)
    ]


def _wrong(topology: Topology, topic: Topic, settings: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    policy = settings.get("cleanup.policy", "compact" if topic.compacted else "delete")
    is_of_presence = topic.name.startswith(topology.presence_topic(""))
    if topic.compacted and policy != "compact" and not is_of_presence:  # a presence is out of date within seconds
        yield "cleanup.policy", "compact", "the newest checkpoints are deleted for their age"
    if not topic.compacted:  # before the policy: a retention is in effect once that is mended
        yield from _short(topic, settings, ", once cleanup.policy is delete" if policy == "compact" else "")
    if not topic.compacted and "compact" in policy:
        yield "cleanup.policy", "delete", "of records with the same key all but the newest are deleted"
    taken, needed = _number(settings, "max.message.bytes"), needed_bytes(topology, topic)
    if taken is not None and taken < needed:
        is_of_packs = topic.retention_ms == UNTIL_ARCHIVED_MS
        then = "larger packs are refused, and sent in smaller ones" if is_of_packs else "larger records are refused"
        yield "max.message.bytes", str(needed), then
    if settings.get("message.timestamp.type", "LogAppendTime") != "LogAppendTime":
        lost = "records of a writer whose clock is wrong are deleted or refused"
        waited = "a start may wait for a former run that has ended"
        yield "message.timestamp.type", "LogAppendTime", waited if is_of_presence else lost


def _short(topic: Topic, settings: Mapping[str, str], when: str) -> Iterator[tuple[str, str, str]]:
    """Retention that is shorter than what the topic is for. `when`: if its effect is not yet there."""
    kept_ms, kept_bytes = _number(settings, "retention.ms"), _number(settings, "retention.bytes")
    if topic.retention_ms == UNTIL_ARCHIVED_MS:
        effect = f"packs are deleted, archived or not{when}"
        if kept_ms not in {None, _UNLIMITED}:
            yield "retention.ms", str(_UNLIMITED), effect
        if kept_bytes not in {None, _UNLIMITED}:
            yield "retention.bytes", str(_UNLIMITED), effect
        return
    wanted = topic.retention_ms or SHORT_RETENTION_MS
    if kept_ms is not None and kept_ms != _UNLIMITED and kept_ms < wanted:
        yield "retention.ms", str(wanted), f"records are deleted before a node that was away has read them{when}"


def needed_bytes(topology: Topology, topic: Topic) -> int:
    """The size of message that the topic should take at least; 0 where that is not known."""
    if topic.max_message_bytes:
        return topic.max_message_bytes
    if topic.retention_ms == UNTIL_ARCHIVED_MS:
        return MIB
    for device in topology.iot:
        if topic.name == topology.device_topic(device.name) and device.codec == "raw":
            stream = topology.stream(device.stream)
            return math.prod(stream.shape) * _ITEM_BYTES[stream.dtype] + _OVERHEAD_BYTES
    if any(topic.name == topology.dead_letters_topic(edge.name) for edge in topology.edges):
        return DEAD_LETTER_MESSAGE_BYTES
    return 0


def _number(settings: Mapping[str, str], name: str) -> int | None:
    try:
        return int(settings[name])
    except (KeyError, ValueError):
        return None
