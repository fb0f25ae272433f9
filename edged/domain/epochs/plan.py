"""An epoch's plan over a cache: windows of samples, some cached, some to fetch, and how the cache changes meanwhile.

Covers what all sampling modes share: windows, the order inside them, stepping through them, resuming. Stores nothing: a
plan prescribes what the cache does, and the cache may not keep up (a full disk, a corrupt entry): a planned hit that is
absent is fetched like a miss. See also: `stratified`, `rate_plan` and `lru` for which samples a window has, `modes` for
which mode uses which.

A plan is a pure function of its arguments: after a restart it gives the same windows, with the same admissions and
evictions. Windows are made one after the other; going back starts again from the first.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import Ids, Snapshot
from edged.domain.epochs import window as sampling
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.split import TrainSplit
from edged.domain.epochs.window import Window

WINDOWS_PER_CACHE = 4
"""Where what is fetched replaces what is cached, a window fetches at most a quarter of the cache."""

_S = TypeVar("_S")


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """`window_bytes`: of one window's fetched samples; `capacity_bytes`: of the cache, all tiers together.

    A plan counts each sample with its block's mean size: where sizes vary, leave the cache some room above its plan.
    """

    seed: int
    test_fraction: float
    window_bytes: int
    capacity_bytes: int


@dataclass(frozen=True, eq=False)
class CachedWindow:
    """Some samples in the order of use, n of them, m of which are fetched.

    `ids`: int64 [n]; `weights`: float32 [n], what their losses count; `is_cached`: bool [n], planned hits.
    `fetch`: the misses, as the archive is asked for them; `position`: int64 [n], a miss's index in `fetch.ids`, -1 for
    a hit. `admit`: bool [m], which of `fetch.ids` to cache. `evict`: int64, cached ids that may go as soon as this
    window begins: neither it nor a later one of the epoch draws them from the cache.
    """

    ids: Ids
    weights: npt.NDArray[np.float32]
    is_cached: npt.NDArray[np.bool_]
    fetch: Window
    position: Ids
    admit: npt.NDArray[np.bool_]
    evict: Ids

    @property
    def num_samples(self) -> int:
        return len(self.ids)


class CachePlan(Protocol):
    """The windows of one epoch."""

    @property
    def snapshot(self) -> Snapshot: ...

    @property
    def epoch(self) -> int: ...

    @property
    def digest(self) -> str:
        """SHA-256 of all that the plan depends on, in hexadecimal."""

    def window(self, index: int) -> CachedWindow | None:
        """Window `index`, the same at every call; None after the last."""

    def locate(self, sample_index: int) -> tuple[int, int]:
        """(window, index in it) of the epoch's `sample_index`-th draw; (number of windows, 0) after the last."""

    @property
    def after(self) -> EpochStart:
        """What the next epoch starts from, with this one's decisions; makes all windows not made yet."""


Step = Callable[[_S], tuple[CachedWindow, _S] | None]
"""The next window and the state after it; None after the last. States are never changed, only replaced."""


class SteppedPlan(Generic[_S]):
    """A plan whose windows follow from a state, one after the other. Keeps the last window and the state after it."""

    def __init__(
        self,
        snapshot: Snapshot,
        epoch: int,
        digest: str,
        first: Callable[[], _S],
        step: Step[_S],
        end: Callable[[_S], EpochStart],
    ) -> None:
        self._snapshot, self._epoch, self._digest = snapshot, epoch, digest
        self._first, self._step, self._end = first, step, end
        self._sizes: list[int] = []
        self._at, self._state = 0, first()
        self._last: tuple[int, CachedWindow] | None = None

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def digest(self) -> str:
        return self._digest

    def window(self, index: int) -> CachedWindow | None:
        if self._last is not None and self._last[0] == index:
            return self._last[1]
        if index < self._at:
            self._at, self._state = 0, self._first()
        while self._at <= index:
            following = self._step(self._state)
            if following is None:
                return None
            window, self._state = following
            self._last = self._at, window
            if self._at == len(self._sizes):
                self._sizes.append(window.num_samples)
            self._at += 1
        assert self._last is not None
        return self._last[1]

    def locate(self, sample_index: int) -> tuple[int, int]:
        index = 0
        while index < len(self._sizes) or self.window(index) is not None:
            if sample_index < self._sizes[index]:
                return index, sample_index
            sample_index -= self._sizes[index]
            index += 1
        return index, 0

    @property
    def after(self) -> EpochStart:
        self.window(len(self._sizes))
        while self.window(self._at) is not None:
            pass
        return self._end(self._state)


def uncached(window: Window) -> CachedWindow:
    """The samples of `window`, each fetched and used once, none of them kept."""
    n = window.num_samples
    none = np.zeros(n, np.bool_)
    return CachedWindow(
        window.ids[window.order], np.ones(n, np.float32), none, window, window.order, none, np.zeros(0, np.int64)
    )


def make_window(
    train_split: TrainSplit,
    *,
    missed: Ids,
    hits: Ids,
    weights: npt.NDArray[np.float32],
    admit: npt.NDArray[np.bool_],
    evict: Ids,
    rng: np.random.Generator,
    times: Ids | None = None,
    hits_first: bool = False,
) -> CachedWindow:
    """The window that draws `hits` from the cache and fetches `missed` (no id twice, the ids of a block together).

    `times`: int64 [missed], how often each fetched sample is used; once when None. `weights`: those of all draws:
    missed samples, each as often as it is used, then hits. Hits and misses are spread evenly over the window; the order
    is otherwise random. `admit`: bool [missed].
    """
    fetch, missed_at = _fetch(train_split, missed)
    position = missed_at if times is None else np.repeat(missed_at, times)
    ids = np.concatenate([fetch.ids[position], hits])
    position = np.concatenate([position, np.full(len(hits), -1, np.int64)])
    num_missed = len(ids) - len(hits)
    order = interleaved(num_missed, len(hits), rng)
    if hits_first:
        order = order[np.argsort(position[order] >= 0, kind="stable")]
    by_position = np.zeros(len(missed), np.bool_)
    by_position[missed_at] = admit
    ids, position, weights = ids[order], position[order], weights[order].astype(np.float32)
    fetch = Window(fetch.refs, fetch.rows, fetch.ids, position[position >= 0], fetch.num_bytes)
    return CachedWindow(ids, weights, position < 0, fetch, position, by_position, np.sort(evict))


def interleaved(num_first: int, num_second: int, rng: np.random.Generator) -> Ids:
    """The indices 0 to num_first + num_second - 1: random within each kind, and the two kinds spread evenly."""
    keys = [(rng.permutation(n) + rng.random(n)) / max(n, 1) for n in (num_first, num_second)]
    return np.argsort(np.concatenate(keys), kind="stable")


def cut(cost: Ids, rows: Ids, *, max_bytes: int, max_samples: int) -> int:
    """How many of the next blocks make a window, at least one if there is one.

    `cost`, `rows`: int64 [k], bytes and rows of each.
    """
    by_bytes = int(np.searchsorted(np.cumsum(cost * rows), max_bytes, side="right"))
    by_samples = int(np.searchsorted(np.cumsum(rows), max_samples, side="right"))
    return min(max(1, min(by_bytes, by_samples, sampling.MAX_WINDOW_BLOCKS)), len(rows))


def digest_of(snapshot: Snapshot, named: object, arrays: Sequence[npt.NDArray[np.generic]]) -> str:
    """SHA-256 of the snapshot's blocks and its quarantine, of settings as JSON, and of arrays; in hexadecimal."""
    used, source = np.unique(snapshot.source, return_inverse=True)  # a source without blocks changes nothing
    sha = hashlib.sha256(json.dumps([[snapshot.sources[i] for i in used.tolist()], named]).encode())
    quarantined = [snapshot.quarantined.ravel()] if len(snapshot.quarantined) else []
    for array in (source.astype(np.int64), snapshot.offset, snapshot.rows, *quarantined, *arrays):
        sha.update(str(len(array)).encode())
        sha.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return sha.hexdigest()


def _fetch(train_split: TrainSplit, missed: Ids) -> tuple[Window, Ids]:
    """The window to ask for, and each missed sample's position in it."""
    rising = np.argsort(missed, kind="stable")
    position = np.empty(len(missed), np.int64)
    position[rising] = np.arange(len(missed))
    return train_split.window(missed[rising]), position
