"""What the core needs from the outside, as Protocols, and the values that cross this boundary.

Belongs here: one module per subject, each port with the contract that its fake and its adapter keep. Does not: any
implementation. This package re-exports the vocabulary.
"""

from typing import TYPE_CHECKING

from edged.faces import face

if TYPE_CHECKING:  # what `face` resolves
    from edged.domain.mqtt.limits import BrokerLimits
    from edged.ports.archive import (
        MAX_KEPT_RECORDS,
        ArchiveStore,
        ArchiveWriter,
        NotArchived,
        RetainedArchive,
        SourceEnd,
    )
    from edged.ports.cache import DiskTier
    from edged.ports.checkpoints import CheckpointStore, DeployedModel
    from edged.ports.datasets import HELD_OUT, Dataset, Format, ImageDecoder, Item, LeftOut, Omissions
    from edged.ports.health import Health
    from edged.ports.log import (
        KEPT,
        Committed,
        Log,
        LogReader,
        Membership,
        Message,
        Record,
        TopicPartition,
        TopicSpec,
        Watermarks,
    )
    from edged.ports.models import Classifier, FeatureExtractor
    from edged.ports.mqtt import MqttBroker, MqttSession, Packet, PacketProperties, Verdict
    from edged.ports.node import Host, HostSample, LaneClock, Notifier, Processes, Progress, Statistics
    from edged.ports.objects import Listed, Manifest, ObjectStore

__all__ = [
    "HELD_OUT",
    "KEPT",
    "MAX_KEPT_RECORDS",
    "ArchiveStore",
    "ArchiveWriter",
    "BrokerLimits",
    "CheckpointStore",
    "Classifier",
    "Committed",
    "Dataset",
    "DeployedModel",
    "DiskTier",
    "FeatureExtractor",
    "Format",
    "Health",
    "Host",
    "HostSample",
    "ImageDecoder",
    "Item",
    "LaneClock",
    "LeftOut",
    "Listed",
    "Log",
    "LogReader",
    "Manifest",
    "Membership",
    "Message",
    "MqttBroker",
    "MqttSession",
    "NotArchived",
    "Notifier",
    "ObjectStore",
    "Omissions",
    "Packet",
    "PacketProperties",
    "Processes",
    "Progress",
    "Record",
    "RetainedArchive",
    "SourceEnd",
    "Statistics",
    "TopicPartition",
    "TopicSpec",
    "Verdict",
    "Watermarks",
]

_LIGHTEST_FIRST = ("health", "log", "mqtt", "node", "checkpoints", "cache", "models", "datasets", "objects", "archive")

if not TYPE_CHECKING:  # with it, a type checker would take any name
    __getattr__ = face(__name__, _LIGHTEST_FIRST, __all__)
