"""Reads what a backbone's file says of itself, for commands that check the topology against it."""

from pathlib import Path

from edged.domain.topology import BackboneFile, Topology


def look_up(path: Path) -> BackboneFile:
    """The shapes and the digest of the file at `path`. Raises StorageError and FormatError."""
    from edged.adapters.tflite.backbone import read_backbone  # noqa: PLC0415 - topologies without one start without TFLite

    return read_backbone(path).file


def is_needed(topology: Topology, node: str) -> bool:
    """Whether the node reads the files of backbones: where jobs with one train, or are served."""
    trains = topology.tier_of(node) == "edge"
    return any(job.backbone and (trains or topology.server_of(job) == node) for job in topology.jobs)
