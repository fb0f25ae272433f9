"""One member's shard of an epoch that a group trains together.

Covers which samples of each global batch are the member's, and what its cache admits and evicts meanwhile. The epoch's
global order depends on (seed, epoch, snapshot) alone, so that the group makes the same updates however many members it
has, and whatever their caches hold.
See also: `sharding` for the assignment of samples to members, `domain.epochs.plan` for the iteration over windows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import Ids, Snapshot
from edged.domain.cache import policy
from edged.domain.epochs import rate_plan
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.importance import Uniform
from edged.domain.epochs.plan import CachedWindow, CachePlan, PlanSettings, SteppedPlan, digest_of
from edged.domain.epochs.rate_plan import Sampler
from edged.domain.epochs.split import TrainSplit, train_split
from edged.domain.group.sharding import Turns, assigned, owners

WINDOW_BYTES = 32 << 20
"""Size of the global order's windows: the samples of that many bytes of blocks are shuffled together. The larger, the
smaller the part of a batch that goes to members that do not own it. A member fetches its part in as many windows as
its own memory requires."""

_NONE = np.zeros(0, np.int64)
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Group:
    """The members that train an epoch together; the same for all but `member`, whose plan it is.

    `shares`: member → its share of each global batch, summing to 1. `budgets`: member → bytes of its cache, to which
    its number of owned blocks is proportional. `batch_size`: samples of a global batch. A member without a share has
    no samples.
    """

    member: str
    shares: Mapping[str, float]
    budgets: Mapping[str, float]
    batch_size: int


@dataclass(frozen=True, eq=False)
class _State:
    """`window`, `draw`: next position in the global order; `rest`: the member's samples before it that are yet to come.

    `kept`: cached since the start; `foreign`: those of `kept` that the member does not own; `admitted`: cached since.
    """

    window: int
    draw: int
    rest: Ids
    kept: Ids
    foreign: Ids
    admitted: Ids
    num_bytes: int


class _Steps:
    """The transitions from one window of the member's epoch to the next, for `GroupPlan`."""

    def __init__(
        self, settings: PlanSettings, split: TrainSplit, epoch: int, boundary: EpochStart, group: Group, turns: Turns
    ) -> None:
        self._settings, self._split, self._boundary = settings, split, boundary
        self._order = global_order(split.snapshot, settings.seed, settings.test_fraction, epoch)
        self._turns, self._batch_size, self._me = turns, group.batch_size, turns.index(group.member)
        budgets = {name: group.budgets.get(name, 0) for name in turns.names}
        self._owner = owners(split.snapshot, budgets)

    def first(self) -> _State:
        cached = np.sort(self._boundary.cached)
        foreign = cached[~self._is_own(cached)]
        return _State(0, 0, _NONE, cached, foreign, _NONE, int(self._split.costs(cached).sum()))

    def boundary(self, state: _State) -> EpochStart:
        return replace(self._boundary, cached=np.sort(np.concatenate([state.kept, state.admitted])))

    def step(self, state: _State) -> tuple[CachedWindow, _State] | None:
        index, draw, rest = state.window, state.draw, state.rest
        while not len(rest):
            window = self._order.window(index) if self._me is not None else None
            if window is None:
                return None
            rest = self._part(window.ids, draw)
            index, draw = index + 1, draw + window.num_samples
        costs, is_hit = self._split.costs(rest), np.isin(rest, state.kept)
        held = np.cumsum(np.where(is_hit, 0, costs))
        count = max(1, int(np.searchsorted(held, self._settings.window_bytes, side="right")))
        ids, is_hit = rest[:count], is_hit[:count]
        missed = np.sort(ids[~is_hit])
        admit, evicted = self._policy(state, missed, hits=ids[is_hit])
        new = missed[admit]
        following = _State(
            window=index,
            draw=draw,
            rest=rest[count:],
            kept=state.kept[~np.isin(state.kept, evicted)],
            foreign=state.foreign[~np.isin(state.foreign, evicted)],
            admitted=np.concatenate([state.admitted, new]),
            num_bytes=state.num_bytes + int(self._split.costs(new).sum() - self._split.costs(evicted).sum()),
        )
        return self._window(ids, is_hit, missed, admit, evicted), following

    def _part(self, ids: Ids, first: int) -> Ids:
        """The member's samples among `ids`, which are the draws from `first` on."""
        draws = np.arange(first, first + len(ids))
        batch = draws // self._batch_size - first // self._batch_size
        owner = self._owner[self._split.snapshot.locate(ids)[0]]
        own: Ids = ids[assigned(owner, self._turns.of(first, first + len(ids)), batch) == self._me]
        return own

    def _policy(self, state: _State, missed: Ids, hits: Ids) -> tuple[_Mask, Ids]:
        """Which of `missed` to admit (mask), and which cached samples to evict."""
        admit = self._is_own(missed)
        costs = self._split.costs(missed[admit])
        room = self._settings.capacity_bytes - state.num_bytes
        free = state.foreign[~np.isin(state.foreign, hits)]
        freed = np.cumsum(self._split.costs(free))
        num_evicted = 0
        if costs.sum() > room:
            num_evicted = min(int(np.searchsorted(freed, int(costs.sum()) - room)) + 1, len(free))
        admit[admit] = policy.no_evict(costs, room + int(freed[num_evicted - 1] if num_evicted else 0))
        return admit, free[:num_evicted]

    def _is_own(self, ids: Ids) -> _Mask:
        is_own: _Mask = self._owner[self._split.snapshot.locate(ids)[0]] == self._me
        return is_own

    def _window(self, ids: Ids, is_hit: _Mask, missed: Ids, admit: _Mask, evicted: Ids) -> CachedWindow:
        position = np.where(is_hit, -1, np.searchsorted(missed, ids))
        fetch = replace(self._split.window(missed), order=position[~is_hit])
        return CachedWindow(ids, np.ones(len(ids), np.float32), is_hit, fetch, position, admit, evicted)


class GroupPlan(SteppedPlan[_State]):
    """A member's windows of one epoch, like those of `epochs.plan.CachePlan`: its samples only, in the order of use.

    The member's part of global batch k, perhaps empty, is its samples `first_sample(k)` to `first_sample(k + 1)` - 1;
    `locate(first_sample(k))` is where to resume. Hits are those of its samples that `boundary` holds; misses from
    blocks that it owns are admitted while there is capacity. Evicts only samples that it no longer owns, and only to
    make room. Of `settings`, seed and test_fraction are the group's, window_bytes and capacity_bytes the member's own.
    """

    def __init__(
        self, steps: _Steps, snapshot: Snapshot, epoch: int, digest: str, group: Group, turns: Turns, num_draws: int
    ) -> None:
        super().__init__(snapshot, epoch, digest, steps.first, steps.step, steps.boundary)
        self._turns, self._batch_size, self._me = turns, group.batch_size, turns.index(group.member)
        self._num_draws = num_draws
        self.shares = group.shares
        """The members' shares of each global batch."""

    @property
    def num_steps(self) -> int:
        """Global batches of the epoch, the same for all members. All but the last are full."""
        return -(-self._num_draws // self._batch_size)

    def first_sample(self, step: int) -> int:
        """The number of the member's samples before global batch `step`; for num_steps, all. Builds no window."""
        if self._me is None:
            return 0
        return self._turns.num_before(min(step * self._batch_size, self._num_draws), self._me)


def plan(settings: PlanSettings, snapshot: Snapshot, epoch: int, boundary: EpochStart, group: Group) -> GroupPlan:
    """The plan of `epoch` for `group.member`."""
    turns = Turns(group.shares)
    split = train_split(snapshot, settings.test_fraction)
    steps = _Steps(settings, split, epoch, boundary, group, turns)
    parts = [(name, part, group.budgets.get(name, 0)) for name, part in zip(turns.names, turns.parts, strict=True)]
    named = ["group", settings.seed, epoch, settings.test_fraction, settings.window_bytes, settings.capacity_bytes]
    digest = digest_of(snapshot, [*named, group.member, group.batch_size, parts], [np.sort(boundary.cached)])
    return GroupPlan(steps, snapshot, epoch, digest, group, turns, _num_draws(split))


def num_steps(snapshot: Snapshot, test_fraction: float, batch_size: int) -> int:
    """Global batches of an epoch over `snapshot`: `GroupPlan.num_steps` without a plan."""
    return -(-_num_draws(train_split(snapshot, test_fraction)) // batch_size)


def global_order(snapshot: Snapshot, seed: int, test_fraction: float, epoch: int) -> CachePlan:
    """The order of all the group's draws: each training sample once, as mode uniform has it without a cache."""
    settings = PlanSettings(seed, test_fraction, WINDOW_BYTES, capacity_bytes=0)
    return rate_plan.plan(settings, snapshot, epoch, EpochStart(_NONE), Sampler("uniform", Uniform()))


def _num_draws(split: TrainSplit) -> int:
    """Counted block by block: each one has its own held-out rows."""
    return sum(len(split.rows(block)) for block in split.blocks.tolist())
