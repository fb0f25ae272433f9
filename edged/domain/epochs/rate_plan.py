"""Plans that go through a new permutation of the blocks each epoch and draw each sample at the rate of a rule.

Covers uniform and importance sampling and the modes to compare with. A rate is rounded up or down at random, sample by
sample, so that nothing is kept but the current window's samples and the cached ones: the expected number of draws is
the rate, in a data set of any size. Cached samples are spread evenly over the epoch, in a random order, whatever their
blocks; of the others, a window has those in its blocks.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import Ids, Snapshot
from edged.domain.cache import policy
from edged.domain.epochs import importance
from edged.domain.epochs import window as sampling
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.importance import Rule
from edged.domain.epochs.plan import CachedWindow, PlanSettings, SteppedPlan, cut, digest_of, make_window
from edged.domain.epochs.scores import ScoreTable
from edged.domain.epochs.split import TrainSplit, train_split

Substitution = Literal["none", "cached", "any"]
"""What replaces the least important samples: nothing; cached samples that this epoch would otherwise leave out, each
once (iCACHE repaired); any samples of the same blocks (as published)."""

_LOW_SHARE = 0.3
_HITS, _ORDER, _WINDOW = 0, 1, 2  # streams of random numbers


@dataclass(frozen=True, eq=False)
class Sampler:
    """How to sample. `values`: scores, the highest of which stay cached; None: the cache never evicts."""

    name: str
    rule: Rule
    values: ScoreTable | None = None
    substitution: Substitution = "none"
    hits_first: bool = False


@dataclass(frozen=True, eq=False)
class _State:
    """`position`: of the next block; `num_rows`: in the blocks before it.

    `cached`, `costs`: the cache's ids and their bytes; `free_at`: from which hit of the epoch on each may be evicted.
    """

    index: int
    position: int
    num_rows: int
    cached: Ids
    costs: Ids
    free_at: Ids


class RatePlan:
    """Makes the windows of one epoch, one after the other."""

    def __init__(
        self, settings: PlanSettings, split: TrainSplit, epoch: int, start: EpochStart, sampler: Sampler
    ) -> None:
        self._settings, self._split, self._epoch, self._sampler = settings, split, epoch, sampler
        self._start = start
        self._blocks = self._rng(_ORDER).permutation(split.blocks)
        self._rows, self._cost = split.snapshot.rows[self._blocks], split.cost[self._blocks]
        self._num_rows = int(self._rows.sum())
        self._cached = np.sort(start.cached)
        rng = self._rng(_HITS)
        every = np.ones(len(self._cached), np.bool_)
        times = importance.counts(sampler.rule.rates(self._cached, every), rng)
        self._hits = rng.permutation(np.repeat(self._cached, times))
        self._spare = rng.permutation(self._cached[times == 0])
        self._free_at = np.zeros(len(self._cached), np.int64)
        np.maximum.at(self._free_at, np.searchsorted(self._cached, self._hits), np.arange(len(self._hits)) + 1)
        if sampler.substitution == "cached":
            self._free_at[times == 0] = len(self._hits) + 1  # may replace another until the end

    def first(self) -> _State:
        return _State(0, 0, 0, self._cached, self._split.costs(self._cached), self._free_at)

    def end(self, state: _State) -> EpochStart:
        return replace(self._start, cached=np.sort(state.cached))

    def step(self, state: _State) -> tuple[CachedWindow, _State] | None:
        if state.position == len(self._blocks):
            return None
        taken = self._cut(state.position)
        blocks = self._blocks[state.position : state.position + taken]
        num_rows = state.num_rows + int(self._rows[state.position : state.position + taken].sum())
        rng = self._rng(_WINDOW, state.index)
        met = self._split.ids(blocks)
        met = met[~self._is_cached(met)]
        times = importance.counts(self._sampler.rule.rates(met, np.zeros(len(met), np.bool_)), rng)
        (begin, end), spare = self._share(self._hits, state, num_rows), self._share(self._spare, state, num_rows)
        hits = self._hits[begin:end]
        times, others = self._substituted(met, times, self._spare[slice(*spare)], rng)
        missed, times = met[times > 0], times[times > 0]
        hits = np.concatenate([hits, others])
        admit, evicted = self._policy(state, missed, begin)
        window = make_window(
            self._split,
            missed=missed,
            times=times,
            hits=hits,
            weights=self._weights(np.repeat(missed, times), hits),
            admit=admit,
            evict=state.cached[evicted],
            rng=rng,
            hits_first=self._sampler.hits_first,
        )
        new = missed[admit]
        following = _State(
            index=state.index + 1,
            position=state.position + taken,
            num_rows=num_rows,
            cached=np.concatenate([state.cached[~evicted], new]),
            costs=np.concatenate([state.costs[~evicted], self._split.costs(new)]),
            free_at=np.concatenate([state.free_at[~evicted], np.full(len(new), end)]),
        )
        return window, following

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._settings.seed, self._epoch, *purpose])

    def _cut(self, position: int) -> int:
        ahead = slice(position, position + sampling.MAX_WINDOW_BLOCKS)
        max_samples = sampling.MAX_WINDOW_SAMPLES // 2  # hits come on top
        return cut(self._cost[ahead], self._rows[ahead], max_bytes=self._settings.window_bytes, max_samples=max_samples)

    def _share(self, ids: Ids, state: _State, num_rows: int) -> tuple[int, int]:
        """The part of `ids` for the window from `state` to `num_rows`: (begin, end)."""
        return len(ids) * state.num_rows // self._num_rows, len(ids) * num_rows // self._num_rows

    def _weights(self, missed: Ids, hits: Ids) -> npt.NDArray[np.float32]:
        is_cached = np.arange(len(missed) + len(hits)) >= len(missed)
        return self._sampler.rule.weights(np.concatenate([missed, hits]), is_cached)

    def _is_cached(self, ids: Ids) -> npt.NDArray[np.bool_]:
        if not len(self._cached):
            return np.zeros(len(ids), np.bool_)
        at = np.minimum(np.searchsorted(self._cached, ids), len(self._cached) - 1)
        is_cached: npt.NDArray[np.bool_] = self._cached[at] == ids
        return is_cached

    def _policy(self, state: _State, missed: Ids, begin: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which of `missed` to admit, and which cached ones to evict; `begin`: the window's first hit."""
        costs, capacity = self._split.costs(missed), self._settings.capacity_bytes
        evicted = np.zeros(len(state.cached), np.bool_)
        scores = self._sampler.values
        if scores is None:
            return policy.no_evict(costs, capacity - int(state.costs.sum())), evicted
        is_free = state.free_at <= begin
        free = np.flatnonzero(is_free)
        kept, admit = policy.most_valuable(
            scores.of(state.cached[free]).astype(np.float64),
            state.costs[free],
            scores.of(missed).astype(np.float64),
            costs,
            capacity - int(state.costs[~is_free].sum()),
        )
        evicted[free[~kept]] = True
        return admit, evicted

    def _substituted(self, met: Ids, times: Ids, spare: Ids, rng: np.random.Generator) -> tuple[Ids, Ids]:
        """How often to draw each of `met`, some replaced, and the cached samples that replace them."""
        kind, none = self._sampler.substitution, np.zeros(0, np.int64)
        if kind == "none" or self._sampler.values is None:
            return times, none
        wanted = np.flatnonzero(times)
        low = wanted[np.argsort(self._sampler.values.of(met[wanted]), kind="stable")][: int(_LOW_SHARE * len(wanted))]
        times = times.copy()
        if kind == "cached":
            low = low[: len(spare)]
            times[low] = 0
            return times, spare[: len(low)]
        times[low] = 0
        np.add.at(times, rng.integers(0, max(len(met), 1), len(low)), 1)
        return times, none


def plan(
    settings: PlanSettings, snapshot: Snapshot, epoch: int, start: EpochStart, sampler: Sampler
) -> SteppedPlan[_State]:
    """The plan of `epoch` by `sampler`. Makes one array of the epoch's hits; the rest window by window."""
    split = train_split(snapshot, settings.test_fraction)
    windows = RatePlan(settings, split, epoch, start, sampler)
    named = [
        sampler.name,
        sampler.rule.digest_name,
        settings.seed,
        epoch,
        settings.test_fraction,
        settings.window_bytes,
    ]
    named += [settings.capacity_bytes]
    columns = sampler.values.columns() if sampler.values is not None else ()
    digest = digest_of(snapshot, named, [np.sort(start.cached), *columns])
    return SteppedPlan(snapshot, epoch, digest, windows.first, windows.step, windows.end)
