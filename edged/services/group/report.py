"""Statistics of a group's epoch as one member records them, and the log lines about it.

See also: `services.training.evaluation`, which logs what was learnt.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from edged.domain.group.state import Action, Closed, Late
from edged.log import logger
from edged.services.training.evaluation import EndedEpoch

Advice = Literal["none", "fp16", "int8", "top_k", "sync_every"]

_LADDER: tuple[tuple[float, Advice], ...] = ((0.1, "none"), (0.25, "fp16"), (0.5, "int8"), (2.0, "top_k"))


@dataclass(slots=True)
class Traffic:
    """Sums since the group's epoch began, or since this member began to follow it.

    Of the group, as far as its log was folded: `steps`, `contributions`, `missed`, `late`. `computed`: steps for which
    this member computed a gradient, in `step_s`; `waited_s`: time spent waiting for the other members.
    """

    num_bytes: int = 0
    late: int = 0
    missed: int = 0
    contributions: int = 0
    step_s: float = 0.0
    waited_s: float = 0.0
    steps: int = 0
    computed: int = 0

    def count(self, action: Action) -> None:
        """Add what an action of the group's log contributes to the sums."""
        match action:
            case Closed():
                self.steps += 1
                self.contributions += len(action.contributions)
                self.missed += len(action.missing)
            case Late():
                self.late += 1
            case _:
                pass


class GroupEpoch(NamedTuple):
    """A finished epoch. `members`: who contributed to its last step. `weights`: the digest of its final weights.

    `announcer`: the edge that publishes these weights as a checkpoint; empty when no edge can. `counts`: whether it had
    anything to train on.
    """

    learnt: EndedEpoch
    members: tuple[str, ...]
    weights: str
    announcer: str
    traffic: Traffic
    counts: bool

    def log(self) -> None:
        """Log what was learnt, if anything, then what the exchange of gradients took."""
        if self.counts:
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
    total_s = traffic.step_s + traffic.waited_s
    return {
        "step_ms": round(1e3 * total_s / traffic.computed, 3),
        "comm_fraction": round(traffic.waited_s / total_s, 4) if total_s else 0.0,
        "advice": advice(traffic.waited_s, traffic.step_s),
    }


def advice(exchange_s: float, compute_s: float) -> Advice:
    """Which `exchange` setting to change, by the time a step spends on the exchange and on computing.

    Below a tenth of the computing time, none: the loss of precision would gain little. Then compression, stronger the
    longer the exchange takes; from twice the computing time on, exchanging less often.
    """
    ratio = exchange_s / max(compute_s, 1e-9)
    return next((setting for limit, setting in _LADDER if ratio < limit), "sync_every")
