"""What the nodes of a soak needed: memory and lines of the log, and whether that is bounded."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edged.domain.topology import MIB
from tests.support.soak.plant import Node

_WARM_S = 600.0
"""Age of a process from which its memory should not rise any more."""

_LONG_S = 600.0
"""Of a node's samples: over less, the slope says nothing."""

MAX_GROWTH_BYTES_PER_H = 32 * MIB
MAX_RESIDENT_BYTES = 400 * MIB
MAX_LOG_BYTES_PER_S = 4096.0
"""Of one node, without `res.sample` and the ends of epochs: 350 MB a day, were a day nothing but faults."""

MAX_LOG_BYTES_PER_EPOCH = 4096
"""The soak's epochs take half a second, so that the faster the trainer, the longer its log; some 2,500 were seen."""


def broken(nodes: Mapping[str, Node], seconds: float) -> Iterator[str]:
    """What is not as it should be, each in a sentence."""
    for node in nodes.values():
        if (peak := max((each for _, _, each in node.resident), default=0)) > MAX_RESIDENT_BYTES:
            yield f"{node.name} had {peak / MIB:.0f} MiB"
        if (slope := growth(node.resident)) is not None and slope > MAX_GROWTH_BYTES_PER_H:
            yield f"{node.name} grows by {slope / MIB:.1f} MiB an hour"
        elsewhere = node.log_bytes - MAX_LOG_BYTES_PER_EPOCH * len(node.weights)
        if (rate := elsewhere / seconds) > MAX_LOG_BYTES_PER_S:
            yield f"{node.name} logs {rate:.0f} bytes a second beside its epochs"
    edges = [node for node in nodes.values() if node.weights]
    for one in edges:
        for other in edges:
            for at in one.weights.keys() & other.weights.keys():
                if one.name < other.name and one.weights[at] != other.weights[at]:
                    yield f"epoch {at[0]} ended in other weights on {one.name} and {other.name}"


def of_nodes(nodes: Mapping[str, Node]) -> Mapping[str, Mapping[str, Any]]:
    """For the summary."""
    return {
        node.name: {
            "peak_mib": round(max((each for _, _, each in node.resident), default=0) / MIB, 1),
            "growth_mib_per_h": None if (slope := growth(node.resident)) is None else round(slope / MIB, 2),
            "starts": len({started for started, _, _ in node.resident}),
            "log_bytes": node.log_bytes,
            "epochs": len(node.weights),
        }
        for node in nodes.values()
    }


def growth(resident: Sequence[tuple[float, float, int]]) -> float | None:
    """Bytes an hour: the median of the slopes of all pairs of one process (Theil-Sen), of warm processes.

    None: not watched for long enough.
    """
    warm = [each for each in resident if each[1] - each[0] > _WARM_S]
    if not warm or warm[-1][1] - warm[0][1] < _LONG_S:
        return None
    thinned = warm[:: max(1, len(warm) // 500)]
    slopes = sorted(
        (b[2] - a[2]) / (b[1] - a[1]) * 3600
        for i, a in enumerate(thinned)
        for b in thinned[i + 1 :]
        if a[0] == b[0] and b[1] - a[1] > _LONG_S / 10
    )
    return slopes[len(slopes) // 2] if slopes else None
