"""The topology: the tiers, their streams and the training jobs, as frozen values; and the topic names they imply.

`topology_file` makes a Topology from the file, complete and valid. No behaviour beyond names and look-ups.
"""

from dataclasses import dataclass, field
from typing import Literal

from edged.domain.topology import topic_names
from edged.domain.topology.devices import Device, Kafka, Mqtt, Stream
from edged.domain.topology.job import Job, job_digest
from edged.domain.topology.nodes import Archive, Edge, LogSettings, Role
from edged.domain.topology.training import Training


@dataclass(frozen=True, slots=True)
class Topology:
    """`jobs`: what each edge trains, all at the same time; none: the site only collects.

    `mqtt`: None: no device speaks MQTT.
    """

    site: str
    kafka: Kafka
    streams: tuple[Stream, ...]
    iot: tuple[Device, ...]
    edges: tuple[Edge, ...]
    archive: tuple[Archive, ...]
    jobs: tuple[Training, ...] = ()
    log: LogSettings = field(default_factory=LogSettings)
    mqtt: Mqtt | None = None

    def stream(self, name: str) -> Stream:
        return next(stream for stream in self.streams if stream.name == name)

    def edge(self, name: str) -> Edge:
        return next(edge for edge in self.edges if edge.name == name)

    def device(self, name: str) -> Device:
        return next(device for device in self.iot if device.name == name)

    def archive_node(self, name: str) -> Archive:
        return next(archive for archive in self.archive if archive.name == name)

    def job(self, name: str) -> Training:
        return next(job for job in self.jobs if job.name == name)

    def devices_of(self, edge: str) -> tuple[Device, ...]:
        """The edge's devices, in the file's order."""
        return tuple(device for device in self.iot if device.edge == edge)

    def mqtt_devices_of(self, edge: str) -> tuple[Device, ...]:
        """Those of them whose samples the edge takes from the MQTT broker."""
        return tuple(device for device in self.devices_of(edge) if device.transport == "mqtt")

    def speaks_mqtt(self, node: str) -> bool:
        """Whether the node connects to the MQTT broker: a device by itself, an edge for its devices."""
        return any(device.transport == "mqtt" and node in {device.name, device.edge} for device in self.iot)

    def receivers_of(self, edge: str, job: Training) -> tuple[Device, ...]:
        """The edge's devices that get the job's predictions by MQTT."""
        return tuple(
            device for device in self.devices_of(edge) if device.transport == "mqtt" and device.stream == job.stream
        )

    def tier_of(self, node: str) -> Literal["iot", "edge", "archive"] | None:
        """The tier of `node`; None when there is no such node."""
        if any(device.name == node for device in self.iot):
            return "iot"
        if any(edge.name == node for edge in self.edges):
            return "edge"
        return "archive" if any(archive.name == node for archive in self.archive) else None

    def server_of(self, training: Training) -> str | None:
        """The node that combines the job's gradients; None: the members do."""
        if training.exchange.mode != "parameter_server":
            return None
        return training.exchange.server or next((archive.name for archive in self.archive), None)

    def resolve(self, training: Training) -> Job:
        """The job with its stream, digest, members and topics. A backbone's file must have been looked up."""
        stream = self.stream(training.stream)
        input_shape = training.input_shape(stream)
        assert input_shape is not None, "a backbone was looked up when the topology was read"
        return Job(
            training,
            stream,
            input_shape,
            job_digest(stream, training),
            members=tuple(edge.name for edge in self.edges),
            server=self.server_of(training),
            train_topic=self.train_topic(training),
            gradients_topic=self.gradients_topic(training),
            checkpoints_topic=self.checkpoints_topic(training),
        )

    def resolved_jobs(self, node: str) -> tuple[Job, ...]:
        """The jobs that `node` has a part in, in the file's order: at an edge all, elsewhere those that it serves."""
        is_edge = self.tier_of(node) == "edge"
        return tuple(self.resolve(job) for job in self.jobs if is_edge or self.server_of(job) == node)

    def device_topic(self, device: str) -> str:
        """The device's samples: key = label or null, value = payload."""
        return topic_names.device_topic(self.site, device)

    def archive_topic(self, stream: str, edge: str) -> str:
        """Packs of one edge's samples of one stream; that edge is the only writer, so ACLs can prove the source."""
        return f"{self.site}.archive.{stream}.{edge}"

    def group(self, role: Role, node: str, job: str = "") -> str:
        """The consumer group under which the node's `role` commits its offsets; no name has a ':'."""
        return f"{self.site}.{role}.{node}" + (f":{job}" if job else "")

    @property
    def has_several_archive_nodes(self) -> bool:
        """Whether several nodes share the archive's sources and the edges' requests."""
        return len(self.archive) > 1

    def archive_group(self, role: Role, node: str) -> str:
        """As `group`, of an archive node: of all together where there are several, for each goes on from the others."""
        return f"{self.site}.{role}" if self.has_several_archive_nodes else self.group(role, node)

    @property
    def archive_members(self) -> str:
        """The consumer group of several archive nodes as its members; nobody commits offsets in its name."""
        return f"{self.site}.archive"

    @property
    def requests_topic(self) -> str:
        """The edges' requests to the archive."""
        return f"{self.site}.archive.requests"

    def requests_partition(self, edge: str) -> int:
        """Where the edge's requests go, if the topic has as many partitions, for several archive nodes to share."""
        edges = [each.name for each in self.edges]
        return edges.index(edge) if self.has_several_archive_nodes else 0

    def epochs_topic(self, edge: str) -> str:
        """The archive's replies to one edge."""
        return f"{self.site}.epochs.{edge}"

    def predictions_topic(self, edge: str, job: str = "") -> str:
        """Predictions of one edge, by the model of one job; key = the device."""
        return topic_names.predictions_topic(self.site, edge, job)

    def dead_letters_topic(self, edge: str) -> str:
        """Records that one edge could not use, each with the reason."""
        return f"{self.site}.dead-letters.{edge}"

    def presence_topic(self, node: str) -> str:
        """What each run of one node, and of an edge's companion, says of itself; key = the role."""
        return f"{self.site}.presence.{node}"

    def train_topic(self, training: Training) -> str:
        """The log that the job's weights are a fold over."""
        return f"{self.site}.train.{training.name or training.stream}"

    def gradients_topic(self, training: Training) -> str:
        """The members' gradients to the job's parameter server."""
        return f"{self.site}.gradients.{training.name or training.stream}"

    def checkpoints_topic(self, training: Training) -> str:
        """The group's newest checkpoints, by slot; compacted."""
        return f"{self.site}.checkpoints.{training.name or training.stream}"
