"""An epoch of a group as it ended for one member, and the line about what the exchange came to.

The line about what was learnt is `evaluation`'s.
"""

from typing import Literal, NamedTuple

from edged.log import logger
from edged.services.group.log.group_log import Traffic
from edged.services.training.evaluation import EndedEpoch

Advice = Literal["none", "fp16", "int8", "top_k", "sync_every"]

_LADDER: tuple[tuple[float, Advice], ...] = ((0.1, "none"), (0.25, "fp16"), (0.5, "int8"), (2.0, "top_k"))


class GroupEpoch(NamedTuple):
    """`members`: who contributed to its last step. `weights`: the digest of those that it ended with.

    `announcer`: the edge that gives these weights to members that come back; empty where nobody can.
    """

    learnt: EndedEpoch
    members: tuple[str, ...]
    weights: str
    announcer: str
    traffic: Traffic

    def log(self) -> None:
        """The lines about it."""
        self.learnt.log()
        metrics, traffic = self.learnt.metrics, self.traffic
        logger().info(
            "exchange.epoch",
            epoch=metrics.epoch,
            step=metrics.step,
            steps=traffic.steps,
            members=list(self.members),
            weights=self.weights,
            contributions=traffic.contributions,
            missed=traffic.missed,
            late=traffic.late,
            bytes_per_step=round(traffic.num_bytes / max(traffic.steps, 1), 1),
            **(_timing(traffic) if traffic.computed else {}),
        )


def _timing(traffic: Traffic) -> dict[str, float | str]:
    whole_s = traffic.step_s + traffic.waited_s
    return {
        "step_ms": round(1e3 * whole_s / traffic.computed, 3),
        "comm_fraction": round(traffic.waited_s / whole_s, 4) if whole_s else 0.0,
        "advice": advice(traffic.waited_s, traffic.step_s),
    }


def advice(exchange_s: float, compute_s: float) -> Advice:
    """What to do where a step's exchange and its computing take so long.

    While the exchange is a tenth of the computing, nothing: the loss of exactness would gain little. Then compression,
    the stronger the longer it takes; when it takes twice as long as computing, steps that are exchanged more seldom.
    """
    ratio = exchange_s / max(compute_s, 1e-9)
    return next((what for most, what in _LADDER if ratio < most), "sync_every")
