"""Uniform sampling over a least-recently-used cache: what most caches do, to compare with.

The order of samples does not depend on the cache, so hits are left to chance. See `policy.lru_hit_ratio`.
"""

from dataclasses import dataclass, replace

import numpy as np

from edged.domain.archive.snapshot import Ids, Snapshot
from edged.domain.epochs import window as sampling
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.plan import (
    WINDOWS_PER_CACHE,
    CachedWindow,
    PlanSettings,
    SteppedPlan,
    cut,
    digest_of,
    make_window,
)
from edged.domain.epochs.split import train_split


@dataclass(frozen=True, eq=False)
class _State:
    """`queue`: cached ids, the least recently used first; `costs`: the bytes of each."""

    index: int
    position: int
    queue: Ids
    costs: Ids


def plan(settings: PlanSettings, snapshot: Snapshot, epoch: int, start: EpochStart) -> SteppedPlan[_State]:
    """Every sample once, in an order that the cache does not change. `start.cached`: least recently used first."""
    split = train_split(snapshot, settings.test_fraction)
    blocks = np.random.default_rng([settings.seed, epoch]).permutation(split.blocks)
    rows, cost = snapshot.rows[blocks], split.cost[blocks]
    max_bytes = min(settings.window_bytes, settings.capacity_bytes // WINDOWS_PER_CACHE or (1 << 62))

    def step(state: _State) -> tuple[CachedWindow, _State] | None:
        if state.position == len(blocks):
            return None
        ahead = slice(state.position, state.position + sampling.MAX_WINDOW_BLOCKS)
        taken = cut(cost[ahead], rows[ahead], max_bytes=max_bytes, max_samples=sampling.MAX_WINDOW_SAMPLES)
        met = split.ids(blocks[state.position : state.position + taken])
        is_found, is_used = np.isin(met, state.queue), np.isin(state.queue, met)
        missed, found = met[~is_found], met[is_found]
        found_bytes = int(state.costs[is_used].sum())
        admit = found_bytes + np.cumsum(split.costs(missed)) <= settings.capacity_bytes
        others, other_costs = state.queue[~is_used], state.costs[~is_used]
        excess = found_bytes + int(split.costs(missed[admit]).sum() + other_costs.sum()) - settings.capacity_bytes
        num_evicted = min(int(np.searchsorted(np.cumsum(other_costs), excess)) + 1, len(others)) if excess > 0 else 0
        window = make_window(
            split,
            missed=missed,
            hits=found,
            weights=np.ones(len(met), np.float32),
            admit=admit,
            evict=others[:num_evicted],
            rng=np.random.default_rng([settings.seed, epoch, state.index]),
        )
        used = window.ids[window.is_cached | np.isin(window.ids, missed[admit])]
        queue = np.concatenate([others[num_evicted:], used])
        costs = np.concatenate([other_costs[num_evicted:], split.costs(used)])
        return window, _State(state.index + 1, state.position + taken, queue, costs)

    named = ["lru", settings.seed, epoch, settings.test_fraction, settings.window_bytes, settings.capacity_bytes]
    digest = digest_of(snapshot, named, [start.cached])

    def first() -> _State:
        return _State(0, 0, start.cached, split.costs(start.cached))

    return SteppedPlan(snapshot, epoch, digest, first, step, lambda state: replace(start, cached=state.queue))
