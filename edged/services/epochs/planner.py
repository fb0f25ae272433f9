"""How an epoch is sampled: by what the one before left in the cache, the samples' scores, and measured costs.

Covers the sampler's state, which carries this from one epoch to the next, also through a restart. See also:
`domain.epochs.modes` for the plans themselves, `services.group.planner` for a member of a group.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from edged.aio import run_in_worker
from edged.domain.archive.snapshot import Ids, Snapshot, renumbered
from edged.domain.cache import hit_share
from edged.domain.epochs import modes, sampler_state
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.importance import Gate
from edged.domain.epochs.plan import CachePlan, PlanSettings
from edged.domain.epochs.sampler_state import SamplerState
from edged.domain.epochs.scores import ScoreTable
from edged.domain.epochs.split import TrainSplit, train_split
from edged.domain.epochs.window import SAMPLE_OVERHEAD, Window
from edged.domain.topology import Sampling
from edged.errors import FormatError, StorageError
from edged.hanging import degraded_while_hanging
from edged.log import logger
from edged.ports import CheckpointStore, Health
from edged.services.cache.shared import CacheShare, held_ids
from edged.services.epochs.sample_scores import SCORED, SampleScores

SCORE_BYTES = 4 << 20
"""Of the table of scores: beyond this they are kept by block."""

_MAX_HIT_SHARE = 0.999
"""What fits into the cache now may not in the next epoch; something is to be fetched then."""


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """What a plan depends on, of the topology."""

    sampling: Sampling
    seed: int
    test_fraction: float
    window_bytes: int


class EpochPlanner(Protocol):
    """Makes the plans: `LocalPlanner` for a job of one edge, `GroupPlanner` for a member of a group."""

    def can_draw_ahead(self, present: Snapshot, following: Snapshot | None = None) -> bool:
        """Whether the next plan can be drawn over `following` while the one over `present` is still in use.

        Without `following`: over whatever the archive has by then.
        """

    def is_valid(self, plan: CachePlan) -> bool:
        """Whether `plan`, drawn ahead, is still the one to use."""

    @property
    def test_window_bytes(self) -> int:
        """Bytes of a window of held-out samples."""

    def test_windows(self, split: TrainSplit, held_out: tuple[Window, ...]) -> tuple[Window, ...]:
        """The part of those windows to test on here."""

    async def plan(self, epoch: int, snapshot: Snapshot) -> CachePlan:
        """The plan of `epoch` over `snapshot`."""

    async def close(self, plan: CachePlan, compute_s: float, fetch_s: float) -> None:
        """Record what the next epoch needs of this one. `compute_s`, `fetch_s`: seconds of each for a sample."""


class LocalPlanner:
    """Makes each epoch's plan. Used by one task.

    `scores`: for the trainer to learn, and to draw the next plans by; None where the sampling mode does not use any.
    """

    def __init__(self, store: CheckpointStore, share: CacheShare, settings: PlannerSettings, health: Health) -> None:
        self._store = store
        self._health = health
        self._share = share
        self._settings = settings
        self._state: SamplerState | None = None
        self.scores = SampleScores(settings.sampling.mode) if settings.sampling.mode in SCORED else None

    def can_draw_ahead(self, present: Snapshot, following: Snapshot | None = None) -> bool:  # noqa: ARG002 - over any
        """Unless plans depend on scores: the next one is then drawn when the present epoch is over."""
        return self.scores is None

    def is_valid(self, plan: CachePlan) -> bool:  # noqa: ARG002 - nothing changes it
        """Always."""
        return True

    @property
    def test_window_bytes(self) -> int:
        return self._settings.window_bytes

    def test_windows(self, split: TrainSplit, held_out: tuple[Window, ...]) -> tuple[Window, ...]:  # noqa: ARG002 - all
        """All of them."""
        return held_out

    async def plan(self, epoch: int, snapshot: Snapshot) -> CachePlan:
        """The plan of `epoch` over `snapshot`; the same after a restart."""
        state = await self._restored(epoch)
        if state is None:
            start = replace(self._first_start(snapshot), hit_share=self._hit_share(snapshot))
            state = SamplerState(epoch, snapshot, start, ScoreTable(snapshot, SCORE_BYTES))
            await self._save(state)
        cached = await run_in_worker(renumbered, state.start.cached, state.snapshot, snapshot)
        self._share.keep(snapshot, cached, state.start.capacity_bytes)
        return await run_in_worker(self._plan, state, snapshot, cached)

    async def close(self, plan: CachePlan, compute_s: float, fetch_s: float) -> None:
        """Record what the next epoch needs of this one, durably. See `EpochPlanner.close`."""
        if self._state is None or self._state.epoch != plan.epoch + 1:
            gate = Gate() if self.scores is None else self.scores.gate
            after = replace(
                await run_in_worker(lambda: plan.after),
                hit_share=self._hit_share(plan.snapshot, compute_s, fetch_s),
                capacity_bytes=self._capacity_bytes(plan.snapshot),
                is_gate_open=gate.is_open,
            )
            scores = ScoreTable(plan.snapshot, SCORE_BYTES) if self.scores is None else self.scores.table.snapshot()
            await self._save(SamplerState(plan.epoch + 1, plan.snapshot, after, scores, gate))

    def _plan(self, state: SamplerState, snapshot: Snapshot, cached: Ids) -> CachePlan:
        settings, scores = self._settings, state.scores.grown(snapshot, SCORE_BYTES)
        if self.scores is not None:
            self.scores.begin(scores, state.gate)
        return modes.plan(
            settings.sampling.mode,
            PlanSettings(settings.seed, settings.test_fraction, settings.window_bytes, state.start.capacity_bytes),
            snapshot,
            state.epoch,
            replace(state.start, cached=cached),
            scores.snapshot(),
        )

    def _hit_share(self, snapshot: Snapshot, compute_s: float = 0.0, fetch_s: float = float("inf")) -> float:
        """The hit share for `snapshot`. Until something is measured, the link is assumed to be the bottleneck."""
        split = train_split(snapshot, self._settings.test_fraction)
        cached_share = min(self._capacity_bytes(snapshot) / max(split.num_bytes, 1), 1.0)
        if self._settings.sampling.hit_share is not None:
            wanted = max(self._settings.sampling.hit_share, cached_share)
        else:
            wanted = hit_share.hit_share(cached_share, compute_s, fetch_s)
        return min(wanted, _MAX_HIT_SHARE)

    def _capacity_bytes(self, snapshot: Snapshot) -> int:
        """The bytes of mean samples of the snapshot that the job's part of the cache holds, counted as plans do."""
        payload_bytes = int(snapshot.num_bytes.sum()) // max(snapshot.num_samples, 1)
        return self._share.allot(self._share.cache.num_entries(payload_bytes) * (payload_bytes + SAMPLE_OVERHEAD))

    def _first_start(self, snapshot: Snapshot) -> EpochStart:
        """The first epoch's start: training samples that an earlier run left in the cache are hits at once."""
        if self._share.is_shared:  # what another job put there does not decide this one's plan
            held = np.zeros(0, np.int64)
        else:
            held = held_ids(self._share.cache, train_split(snapshot, self._settings.test_fraction))
        return EpochStart(held, capacity_bytes=self._capacity_bytes(snapshot))

    async def _restored(self, epoch: int) -> SamplerState | None:
        if self._state is None or self._state.epoch != epoch:
            with degraded_while_hanging(self._health, "disk"):
                self._state = await run_in_worker(self._load, epoch)
        return self._state

    def _load(self, epoch: int) -> SamplerState | None:
        blob = self._store.sampler_state(epoch)
        if blob is None:
            return None
        try:
            state = sampler_state.decode(blob, score_bytes=SCORE_BYTES)
        except FormatError as error:
            logger().warning("epoch.memo_skipped", epoch=epoch, err=str(error))
            return None
        return state if state.epoch == epoch else None

    async def _save(self, state: SamplerState) -> None:
        self._state = state
        try:
            with degraded_while_hanging(self._health, "disk"):
                await run_in_worker(lambda: self._store.save_sampler_state(sampler_state.encode(state), state.epoch))
        except StorageError as error:  # a restart would then draw this epoch again
            logger().warning("epoch.memo_failed", epoch=state.epoch, err=str(error))
