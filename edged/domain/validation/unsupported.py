"""Settings that this version does not support yet.

Each is refused explicitly rather than ignored. Once one is supported, its function here is deleted.
"""

from collections.abc import Iterator

from edged.domain.topology import Topology
from edged.domain.validation.finding import Finding


def problems(topology: Topology) -> Iterator[Finding]:
    """A finding for each unsupported setting."""
    yield from _int8_backbone(topology)


def _int8_backbone(topology: Topology) -> Iterator[Finding]:
    for i, job in enumerate(topology.jobs):
        if job.backbone is not None and job.deploy.format == "int8":
            yield Finding(
                f"training[{i}].deploy.format",
                "this version does not make int8 models with a backbone yet",
                "use format: float32",
                needs=(f"training[{i}].backbone",),
            )
