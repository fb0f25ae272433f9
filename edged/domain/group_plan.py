"""One member's part of an epoch that a group trains on together.

Covers which samples of each global batch are the member's, and what its cache does meanwhile. The epoch's global order
follows from (seed, epoch, snapshot) alone, so that the group makes the same updates however many members it has, and
whatever their caches hold. Whose a sample is, is `shard`'s subject; walking through windows is `cache_plan`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from edged.domain.boundary import Boundary
from edged.domain.cache_plan import PlanSettings, SteppedPlan
from edged.domain.dataset import Snapshot
from edged.domain.sampling import Ids

WINDOW_BYTES = 32 << 20
"""Of the global order's windows: the samples of so many blocks are shuffled together. Larger ones leave less of a
batch to members that do not own it; a member fetches its part of one in as many steps as its own memory needs."""


@dataclass(frozen=True, slots=True)
class Group:
    """Who trains an epoch together, the same for all but `member`, whose plan it is.

    `shares`: member → its share of each global batch, together 1. `budgets`: member → bytes of its cache, what blocks
    are owned in proportion to. `batch_size`: samples of a global batch. A member without a share has no part.
    """

    member: str
    shares: Mapping[str, float]
    budgets: Mapping[str, float]
    batch_size: int


class GroupPlan(SteppedPlan[object]):
    """A member's windows of one epoch, as `cache_plan.CachePlan` has them: its own samples only, in the order of use.

    The member's part of global batch k is its samples `first_sample(k)` to `first_sample(k + 1)` - 1, maybe none:
    `locate(first_sample(k))` is where to go on.
    """

    @property
    def num_steps(self) -> int:
        """Global batches of the epoch, the same for all members; all are full but the last."""

    @property
    def most_samples(self) -> int:
        """No part of a global batch is larger."""

    def first_sample(self, step: int) -> int:
        """How many of the member's samples come before global batch `step`; all, at num_steps. Costs next to nothing."""


def plan(settings: PlanSettings, snapshot: Snapshot, epoch: int, boundary: Boundary, group: Group) -> GroupPlan:
    """The member's plan of `epoch`. `settings`: the member's own window_bytes and capacity_bytes; seed and
    test_fraction are the group's.

    Hits are the member's samples that `boundary` has; of the misses those in blocks that it owns are admitted while the
    capacity lasts. Evicts none but what it does not own any more, and that when the room is needed.
    """


def num_steps(snapshot: Snapshot, test_fraction: float, batch_size: int) -> int:
    """Global batches of an epoch over `snapshot`, counted sample by sample."""
