"""Sampling modes: the plan of each."""

from edged.domain.archive.snapshot import Snapshot
from edged.domain.epochs import lru, rate_plan, stratified
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.importance import ICache, Importance, Shade, Uniform
from edged.domain.epochs.plan import CachePlan, PlanSettings
from edged.domain.epochs.rate_plan import Sampler, Substitution
from edged.domain.epochs.scores import ScoreTable
from edged.domain.epochs.split import train_split
from edged.domain.topology import SamplingMode

WARM_UP_EPOCHS = 1


def plan(
    mode: SamplingMode,
    settings: PlanSettings,
    snapshot: Snapshot,
    epoch: int,
    start: EpochStart,
    scores: ScoreTable,
) -> CachePlan:
    """The plan of `epoch` in `mode`. `scores` are numbered by `snapshot`; pass a copy, they must not change.

    `uniform` and `no_evict` are the same: each sample once, the cache filled and then left as it is. So is `stratified`
    without a cache, or when everything fits into it. `importance` draws uniformly in its first epoch and while the
    gate is shut, but caches the samples of the highest scores even then.
    """
    match mode:
        case "stratified" if settings.capacity_bytes and not _fits(settings, snapshot):
            return stratified.plan(settings, snapshot, epoch, start)
        case "lru":
            return lru.plan(settings, snapshot, epoch, start)
        case "importance":
            is_on = epoch >= WARM_UP_EPOCHS and start.is_gate_open and not scores.is_empty
            sampler = Sampler(mode, Importance(scores) if is_on else Uniform(), scores)
        case "shade" | "shade_published":
            is_published = mode == "shade_published"
            num_samples = train_split(snapshot, settings.test_fraction).num_samples
            rule = Shade(scores, start.cached, num_samples, as_published=is_published)
            sampler = Sampler(mode, rule, scores, hits_first=is_published)
        case "icache" | "icache_published":
            icache = ICache(scores, epoch)
            substitution: Substitution = "any" if mode == "icache_published" else "cached"
            sampler = Sampler(mode, icache, scores, "none" if icache.is_full else substitution)
        case _:
            sampler = Sampler("uniform", Uniform())
    return rate_plan.plan(settings, snapshot, epoch, start, sampler)


def _fits(settings: PlanSettings, snapshot: Snapshot) -> bool:
    return train_split(snapshot, settings.test_fraction).num_bytes <= settings.capacity_bytes
