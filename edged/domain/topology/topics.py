"""The Kafka topics that a topology needs, and who may do what with them.

Values only: `app` creates the topics, `edged topics` prints both.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from edged.domain.topology import MIB, Device, Role, Topology, Training

SHORT_RETENTION_MS = 3_600_000
"""Epochs and requests are of use only while they are being answered; an hour outlives any outage worth waiting for."""

EPOCHS_MESSAGE_BYTES = 2 * MIB
"""A part of an epoch is 512 KiB plus at most one sample of 768 KiB, and its header."""

REQUESTS_MESSAGE_BYTES = 4 * MIB
"""A request may name a million rows of two bytes, and the blocks they are in."""

EXCHANGE_RETENTION_MS = 24 * SHORT_RETENTION_MS
"""A member that was away for longer goes on from a checkpoint that another one announced."""

EXCHANGE_MESSAGE_BYTES = MIB
"""A gradient, an update and a checkpoint travel in pieces of at most 512 KiB, each with its header."""

_ARCHIVE_ROLES: tuple[Role, ...] = ("archiver", "epoch_server")


class Topic(NamedTuple):
    """A topic; its fields are those of `ports.TopicSpec`. None stands for the broker's default."""

    name: str
    partitions: int = 1
    retention_ms: int | None = None
    max_message_bytes: int | None = None
    compacted: bool = False


class Grant(NamedTuple):
    """What one node (its principal is its name) may do with one topic."""

    principal: str
    operation: Literal["Read", "Write"]
    topic: str


def topics(topology: Topology) -> list[Topic]:
    """Every topic the topology needs, each once: the devices', the edges', the archive's and the groups'."""
    edges = [edge.name for edge in topology.edges]
    return [
        *(Topic(topology.device_topic(device.name)) for device in topology.iot),
        *(Topic(topology.archive_topic(stream, edge)) for edge in edges for stream in _streams(topology, edge)),
        *(Topic(topic) for edge in edges for topic in prediction_topics(topology, edge)),
        *(Topic(topology.dead_letters_topic(edge)) for edge in edges),
        *(Topic(topology.epochs_topic(edge), 1, SHORT_RETENTION_MS, EPOCHS_MESSAGE_BYTES) for edge in edges),
        Topic(topology.requests_topic, 1, SHORT_RETENTION_MS, REQUESTS_MESSAGE_BYTES),
        *(topic for job in _group_jobs(topology) for topic in _of_group(topology, job)),
    ]


def grants(topology: Topology) -> list[Grant]:
    """The least that each node needs.

    A writer may also read what it writes: after a broken connection it looks in the log whether its last record
    arrived (see `ports.Log.append`).
    """
    return [
        *(grant for device in topology.iot for grant in _of_device(topology, device)),
        *(grant for edge in topology.edges for grant in _of_edge(topology, edge.name)),
        *(grant for archive in topology.archive for grant in _of_archive(topology, archive.name)),
        *dict.fromkeys(grant for job in _group_jobs(topology) for grant in _in_group(topology, job)),
    ]


def groups(topology: Topology) -> list[tuple[str, str]]:
    """(principal, consumer group) of every reader that commits its positions."""
    return [
        *(each for edge in topology.edges for each in _groups_of_edge(topology, edge.name)),
        *((each.name, topology.group(role, each.name)) for each in topology.archive for role in _ARCHIVE_ROLES),
    ]


def prediction_topics(topology: Topology, edge: str) -> list[str]:
    """One topic for each job's predictions at the edge; one, too, while nothing is trained."""
    return [topology.predictions_topic(edge, name) for name in _job_names(topology)]


def _job_names(topology: Topology) -> list[str]:
    return list(dict.fromkeys(job.name for job in topology.jobs)) or [""]


def _groups_of_edge(topology: Topology, edge: str) -> list[tuple[str, str]]:
    companions = [(edge, topology.group("infer", edge, name)) for name in _job_names(topology)]
    return [(edge, topology.group("ingest", edge)), *companions]


def _of_device(topology: Topology, device: Device) -> list[Grant]:
    predictions = prediction_topics(topology, device.edge)
    return [
        *_writer(device.name, topology.device_topic(device.name)),
        *(Grant(device.name, "Read", topic) for topic in predictions),
    ]


def _of_edge(topology: Topology, edge: str) -> list[Grant]:
    read = [*(topology.device_topic(device.name) for device in topology.devices_of(edge)), topology.epochs_topic(edge)]
    written = [
        *(topology.archive_topic(stream, edge) for stream in _streams(topology, edge)),
        *prediction_topics(topology, edge),
        topology.dead_letters_topic(edge),
        topology.requests_topic,
    ]
    return [
        *(Grant(edge, "Read", topic) for topic in read),
        *(grant for topic in written for grant in _writer(edge, topic)),
    ]


def _of_archive(topology: Topology, archive: str) -> list[Grant]:
    packs = [
        topology.archive_topic(stream, edge.name) for edge in topology.edges for stream in _streams(topology, edge.name)
    ]
    return [
        *(Grant(archive, "Read", topic) for topic in [*packs, topology.requests_topic]),
        *(grant for edge in topology.edges for grant in _writer(archive, topology.epochs_topic(edge.name))),
    ]


def _group_jobs(topology: Topology) -> list[Training]:
    """The jobs that the edges train together."""
    return [job for job in topology.jobs if job.exchange.mode != "none"]


def _of_group(topology: Topology, job: Training) -> Iterator[Topic]:
    yield Topic(topology.train_topic(job), 1, EXCHANGE_RETENTION_MS, EXCHANGE_MESSAGE_BYTES)
    if job.exchange.mode == "parameter_server":
        yield Topic(topology.gradients_topic(job), 1, EXCHANGE_RETENTION_MS, EXCHANGE_MESSAGE_BYTES)
    yield Topic(topology.checkpoints_topic(job), max_message_bytes=EXCHANGE_MESSAGE_BYTES, compacted=True)


def _in_group(topology: Topology, job: Training) -> Iterator[Grant]:
    """What makes a node one of the members, or their server: nobody else can write the group's topics."""
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
