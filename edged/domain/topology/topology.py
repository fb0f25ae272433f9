"""The topology: the tiers, their streams and the training jobs, as frozen values; and the topic names they imply.

A Topology is made by `config_yaml` from the file, complete and valid. Holds no behaviour beyond names and look-ups.
"""

from dataclasses import dataclass
from typing import Literal

from edged.domain.topology.nodes import Archive, Device, Edge, Kafka, Role, Stream
from edged.domain.topology.training import Training


@dataclass(frozen=True, slots=True)
class Topology:
    """`jobs`: what each edge trains, all at the same time; none: the site only collects."""

    site: str
    kafka: Kafka
    streams: tuple[Stream, ...]
    iot: tuple[Device, ...]
    edges: tuple[Edge, ...]
    archive: tuple[Archive, ...]
    jobs: tuple[Training, ...] = ()

    def stream(self, name: str) -> Stream:
        return next(stream for stream in self.streams if stream.name == name)

    def edge(self, name: str) -> Edge:
        return next(edge for edge in self.edges if edge.name == name)

    def device(self, name: str) -> Device:
        return next(device for device in self.iot if device.name == name)

    def devices_of(self, edge: str) -> tuple[Device, ...]:
        """The edge's devices, in the file's order."""
        return tuple(device for device in self.iot if device.edge == edge)

    def tier_of(self, node: str) -> Literal["iot", "edge", "archive"] | None:
        """The tier that `node` is in; None when no node is called so."""
        if any(device.name == node for device in self.iot):
            return "iot"
        if any(edge.name == node for edge in self.edges):
            return "edge"
        return "archive" if any(archive.name == node for archive in self.archive) else None

    def server_of(self, job: Training) -> str | None:
        """The node that combines the job's gradients; None where the members do so themselves."""
        if job.exchange.mode != "parameter_server":
            return None
        return job.exchange.server or next((archive.name for archive in self.archive), None)

    def device_topic(self, device: str) -> str:
        """What the device publishes: key = label or null, value = payload."""
        return f"{self.site}.iot.{device}"

    def archive_topic(self, stream: str, edge: str) -> str:
        """Packs of one edge's samples of one stream; its only writer is that edge, so ACLs can prove the source."""
        return f"{self.site}.archive.{stream}.{edge}"

    def group(self, role: Role, node: str, job: str = "") -> str:
        """The consumer group under which the node's `role` commits its positions; no name holds a ':'."""
        return f"{self.site}.{role}.{node}" + (f":{job}" if job else "")

    @property
    def requests_topic(self) -> str:
        """What edges ask of the archive."""
        return f"{self.site}.archive.requests"

    def epochs_topic(self, edge: str) -> str:
        """What the archive sends to one edge."""
        return f"{self.site}.epochs.{edge}"

    def predictions_topic(self, edge: str, job: str = "") -> str:
        """Predictions of one edge, by the model of one job; key = the device."""
        return f"{self.site}.predictions.{edge}" + (f".{job}" if job else "")

    def dead_letters_topic(self, edge: str) -> str:
        """Records that one edge could not use, with their reason."""
        return f"{self.site}.dead-letters.{edge}"

    def train_topic(self, job: Training) -> str:
        """The log that the job's weights are a fold over."""
        return f"{self.site}.train.{job.name or job.stream}"

    def gradients_topic(self, job: Training) -> str:
        """What the members send to the job's parameter server."""
        return f"{self.site}.gradients.{job.name or job.stream}"

    def checkpoints_topic(self, job: Training) -> str:
        """The group's newest checkpoints, by slot; compacted."""
        return f"{self.site}.checkpoints.{job.name or job.stream}"
