"""The Kafka topics that a topology needs, and each node's rights to them.

Values only. See also: `app.supervision`, where each node creates those topics that it has a right to, and
`edged topics`, which prints both.
"""

from collections.abc import Iterator
from typing import NamedTuple

from edged.domain.topology import Archive, Device, Role, Topology, Training
from edged.domain.topology.message_sizes import (
    EPOCHS_MESSAGE_BYTES,
    EXCHANGE_MESSAGE_BYTES,
    REQUESTS_MESSAGE_BYTES,
)
from edged.domain.topology.rights import Operation, Rights

SHORT_RETENTION_MS = 3_600_000
"""Epochs and requests are needed only while they are being served; an hour outlasts any outage worth waiting for."""

UNTIL_ARCHIVED_MS = -1
"""Of packs: Kafka deletes none by itself, for only the archive node knows which it has (see `ports.KEPT`)."""

EXCHANGE_RETENTION_MS = 24 * SHORT_RETENTION_MS
"""A member that was away for longer resumes from another member's published checkpoint."""

_ARCHIVE_ROLES: tuple[Role, ...] = ("archiver", "epoch_server")


class Topic(NamedTuple):
    """A topic; fields as in `ports.TopicSpec`. None: the broker's default."""

    name: str
    partitions: int = 1
    retention_ms: int | None = None
    max_message_bytes: int | None = None
    compacted: bool = False


class Grant(NamedTuple):
    """A right of one node to one topic; its principal is its name."""

    principal: str
    operation: Operation
    topic: str


def topics(topology: Topology) -> list[Topic]:
    """Every topic of the topology, each once: the devices', edges' and archive's, the groups', the presences."""
    edges = [edge.name for edge in topology.edges]
    return [
        *(Topic(topology.device_topic(device.name)) for device in topology.iot),
        *(
            Topic(topology.archive_topic(stream, edge), 1, UNTIL_ARCHIVED_MS)
            for edge in edges
            for stream in _streams(topology, edge)
        ),
        *(Topic(topic) for edge in edges for topic in prediction_topics(topology, edge)),
        *(Topic(topology.dead_letters_topic(edge)) for edge in edges),
        *(Topic(topology.epochs_topic(edge), 1, SHORT_RETENTION_MS, EPOCHS_MESSAGE_BYTES) for edge in edges),
        Topic(topology.requests_topic, _requests_partitions(topology), SHORT_RETENTION_MS, REQUESTS_MESSAGE_BYTES),
        *(topic for job in _group_jobs(topology) for topic in _of_group(topology, job)),
        *(
            Topic(topology.presence_topic(node), compacted=True)
            for node in [*edges, *(each.name for each in topology.archive)]
        ),
    ]


def nodes(topology: Topology) -> list[str]:
    """All nodes that need rights, in the order of the tiers; a device that speaks MQTT needs none."""
    devices = [device for device in topology.iot if device.transport == "kafka"]
    return [each.name for tier in (devices, topology.edges, topology.archive) for each in tier]


def rights_of(topology: Topology, node: str) -> Rights:
    """The node's rights to topics; those to consumer groups follow from `groups`."""
    rights: dict[str, list[Operation]] = {}
    for grant in grants(topology):
        if grant.principal == node:
            rights.setdefault(grant.topic, []).append(grant.operation)
    return Rights(node, rights)


def topics_of(topology: Topology, node: str) -> list[Topic]:
    """The topics that the node has a right to: all that it asks about, and creates where they are missing."""
    own = rights_of(topology, node).topics
    return [topic for topic in topics(topology) if topic.name in own]


def grants(topology: Topology) -> list[Grant]:
    """The minimum that each node needs.

    A writer may also read what it writes: after a broken connection it checks in the log whether its last record
    arrived (see `ports.Log.append`). Who keeps or serves samples may see the settings of its topics, to tell which of
    them would lose some.
    """
    of_nodes = dict.fromkeys(
        [
            *(grant for edge in topology.edges for grant in _of_edge(topology, edge.name)),
            *(grant for archive in topology.archive for grant in _of_archive(topology, archive)),
            *(grant for job in _group_jobs(topology) for grant in _in_group(topology, job)),
        ]
    )
    settings = (Grant(node, "DescribeConfigs", topic) for node, _operation, topic in of_nodes)
    return [
        *(grant for each in topology.iot if each.transport == "kafka" for grant in _of_device(topology, each)),
        *of_nodes,
        *dict.fromkeys(settings),
    ]


def groups(topology: Topology) -> list[tuple[str, str]]:
    """(principal, consumer group) of every reader that commits its offsets, and of the members of a group."""
    return [
        *(each for edge in topology.edges for each in _groups_of_edge(topology, edge.name)),
        *((node.name, group) for node in topology.archive for group in _groups_of_archive(topology, node.name)),
    ]


def prediction_topics(topology: Topology, edge: str) -> list[str]:
    """One topic for each job's predictions at the edge; a single one if nothing is trained."""
    return [topology.predictions_topic(edge, name) for name in _job_names(topology)]


def _job_names(topology: Topology) -> list[str]:
    return list(dict.fromkeys(job.name for job in topology.jobs)) or [""]


def _requests_partitions(topology: Topology) -> int:
    """One for each edge, so that several archive nodes can share the edges."""
    return len({topology.requests_partition(edge.name) for edge in topology.edges}) or 1


def _groups_of_archive(topology: Topology, node: str) -> list[str]:
    members = [topology.archive_members] if topology.has_several_archive_nodes else []
    return [*members, *(topology.archive_group(role, node) for role in _ARCHIVE_ROLES)]


def _groups_of_edge(topology: Topology, edge: str) -> list[tuple[str, str]]:
    companions = [(edge, topology.group("infer", edge, name)) for name in _job_names(topology)]
    delivered = [job for job in topology.jobs if topology.receivers_of(edge, job)]
    deliverers = [(edge, topology.group("deliver", edge, job.name)) for job in delivered]
    return [(edge, topology.group("ingest", edge)), *companions, *deliverers]


def _of_device(topology: Topology, device: Device) -> list[Grant]:
    predictions = prediction_topics(topology, device.edge)
    return [
        *_writer(device.name, topology.device_topic(device.name)),
        *(Grant(device.name, "Read", topic) for topic in predictions),
    ]


def _of_edge(topology: Topology, edge: str) -> list[Grant]:
    read = [*(topology.device_topic(device.name) for device in topology.devices_of(edge)), topology.epochs_topic(edge)]
    written = [
        *(topology.device_topic(device.name) for device in topology.mqtt_devices_of(edge)),
        *(topology.archive_topic(stream, edge) for stream in _streams(topology, edge)),
        *prediction_topics(topology, edge),
        topology.dead_letters_topic(edge),
        topology.requests_topic,
        topology.presence_topic(edge),
    ]
    return [
        *(Grant(edge, "Read", topic) for topic in read if topic not in written),
        *(grant for topic in written for grant in _writer(edge, topic)),
    ]


def _of_archive(topology: Topology, archive: Archive) -> list[Grant]:
    packs = [
        topology.archive_topic(stream, edge.name) for edge in topology.edges for stream in _streams(topology, edge.name)
    ]
    return [
        *(Grant(archive.name, "Read", topic) for topic in [*packs, topology.requests_topic]),
        *(Grant(archive.name, "Delete", topic) for topic in packs if archive.trim),
        *(grant for edge in topology.edges for grant in _writer(archive.name, topology.epochs_topic(edge.name))),
        *_writer(archive.name, topology.presence_topic(archive.name)),
    ]


def _group_jobs(topology: Topology) -> list[Training]:
    """The jobs that edges train together."""
    return [job for job in topology.jobs if job.exchange.mode != "none"]


def _of_group(topology: Topology, job: Training) -> Iterator[Topic]:
    yield Topic(topology.train_topic(job), 1, EXCHANGE_RETENTION_MS, EXCHANGE_MESSAGE_BYTES)
    if job.exchange.mode == "parameter_server":
        yield Topic(topology.gradients_topic(job), 1, EXCHANGE_RETENTION_MS, EXCHANGE_MESSAGE_BYTES)
    yield Topic(topology.checkpoints_topic(job), max_message_bytes=EXCHANGE_MESSAGE_BYTES, compacted=True)


def _in_group(topology: Topology, job: Training) -> Iterator[Grant]:
    """The rights of members and of their server: no other node can write the group's topics."""
    train, gradients, server = topology.train_topic(job), topology.gradients_topic(job), topology.server_of(job)
    for edge in topology.edges:
        if server is None:
            yield from _writer(edge.name, train)
        else:
            yield Grant(edge.name, "Read", train)
            yield from _writer(edge.name, gradients)
        yield from _writer(edge.name, topology.checkpoints_topic(job))
    if server is not None:
        yield from _writer(server, gradients)
        yield from _writer(server, train)
        yield Grant(server, "Read", topology.checkpoints_topic(job))


def _writer(principal: str, topic: str) -> list[Grant]:
    return [Grant(principal, "Write", topic), Grant(principal, "Read", topic)]


def _streams(topology: Topology, edge: str) -> list[str]:
    """The streams of the edge's devices, each once, in the file's order."""
    return list(dict.fromkeys(device.stream for device in topology.devices_of(edge)))
