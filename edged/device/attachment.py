"""What a device needs to know of its site: a small part of the topology, which can be given without the file."""

import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from edged.domain.topology import NAME_PATTERN, Device, Kafka, Mqtt, Stream
from edged.domain.topology.rights import Operation, Rights
from edged.domain.topology.topic_names import device_topic, predictions_topic
from edged.errors import ConfigError, Problem

if TYPE_CHECKING:  # loads what training needs
    from edged.domain.topology import Topology

_A_NAME = "1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or a digit"


@dataclass(frozen=True, slots=True)
class Attachment:
    """`predictions`: the Kafka topics of its edge's predictions for its stream. `mqtt`: of a device that speaks it."""

    site: str
    device: Device
    stream: Stream
    kafka: Kafka | None
    mqtt: Mqtt | None
    predictions: tuple[str, ...]

    @property
    def topic(self) -> str:
        """The Kafka topic of its samples."""
        return device_topic(self.site, self.device.name)

    @property
    def rights(self) -> Rights:
        """The rights to topics that it uses, of those in `domain.topology.topics.rights_of`."""
        rights: dict[str, list[Operation]] = {self.topic: ["Write", "Read"]}
        rights |= {topic: ["Read"] for topic in self.predictions}
        return Rights(self.device.name, rights)

    @property
    def owner(self) -> dict[str, str]:
        """Identifies the device in the files of its buffer."""
        return {"site": self.site, "device": self.device.name}


def of_topology(topology: "Topology | str | PathLike[str]", name: str) -> Attachment:
    """The device's part of the topology, or of its file. Raises ConfigError."""
    from edged.domain.topology.topics import prediction_topics  # noqa: PLC0415 - as above

    topology = _load(Path(topology), name) if isinstance(topology, str | PathLike) else topology
    device = topology.device(name)
    jobs = [job.name for job in topology.jobs if job.stream == device.stream]
    return Attachment(
        topology.site,
        device,
        topology.stream(device.stream),
        topology.kafka,
        topology.mqtt if device.transport == "mqtt" else None,
        tuple(topology.predictions_topic(device.edge, job) for job in jobs)
        or (prediction_topics(topology, device.edge)[0],),
    )


def of_words(site: str, device: Device, stream: Stream, broker: Kafka | Mqtt) -> Attachment:
    """The same without the file. Raises ConfigError for names that no topology may have."""
    named = {"site": site, "name": device.name, "edge": device.edge}
    wrong = [key for key, name in named.items() if not re.fullmatch(NAME_PATTERN, name)]
    if wrong:
        raise ConfigError(tuple(Problem(key, f"{named[key]!r} is no name", _A_NAME) for key in wrong))
    kafka, mqtt = (None, broker) if isinstance(broker, Mqtt) else (broker, None)
    return Attachment(site, device, stream, kafka, mqtt, (predictions_topic(site, device.edge),))


def _load(file: Path, device: str) -> "Topology":
    from edged import topology_file  # noqa: PLC0415 - takes 0.1 s, and only who has a file needs it
    from edged.domain.suggest import did_you_mean  # noqa: PLC0415

    topology = topology_file.load(file, node=device)
    names = [each.name for each in topology.iot]
    if device not in names:
        hint = did_you_mean(device, names) or f"devices: {', '.join(names)}"
        raise ConfigError((Problem("", f'no device is called "{device}"', hint, str(file)),))
    return topology
