"""The look into a backbone's file, for the commands that check the topology against it."""

from pathlib import Path

from edged.domain.topology import BackboneFile


def look_up(path: Path) -> BackboneFile:
    """What the file says. Raises StorageError and FormatError."""
    from edged.adapters.tflite.backbone import read_backbone  # noqa: PLC0415 - topologies without one start without TFLite

    return read_backbone(path).file
