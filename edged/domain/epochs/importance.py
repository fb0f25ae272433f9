"""Sampling rules for `rate_plan`: how often to draw each sample in an epoch, and the weight of its loss.

Covers uniform sampling, importance sampling without bias (Katharopoulos and Fleuret 2018,
https://arxiv.org/abs/1803.00942) and, to compare with, SHADE (Khan et al., FAST 2023) and iCACHE (Chen et al., HPCA
2023). A rule's *rate* is the number of times that a sample is expected to be drawn in an epoch. Where rate × weight is
1 for all samples, the expected gradient is that of all the data, whatever the scores are.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import Ids
from edged.domain.epochs.scores import ScoreTable
from edged.errors import FormatError

FLOOR = 0.2
"""Share of draws that do not depend on scores: no weight exceeds its inverse. With 0.01, training diverged."""
CLIP_QUANTILE = 0.98
TAU_THRESHOLD = 1.3
"""Above it importance sampling is worth the variance of its weights; there is no presampling to pay for."""
TAU_SMOOTHING = 0.9
SHADE_REPLAYS = 3.0
ICACHE_BETA = 0.33
ICACHE_WARM_UP = 5
ICACHE_REUSE = 3

Rates = npt.NDArray[np.float64]
Weights = npt.NDArray[np.float32]
_Mask = npt.NDArray[np.bool_]


class Rule(Protocol):
    """Rates and weights of samples `ids`, int64 [n]; `is_cached`: bool [n]."""

    digest_name: ClassVar[str]
    """The rule in a plan's digest: data, so that classes may be renamed."""

    def rates(self, ids: Ids, is_cached: _Mask) -> Rates:
        """Expected draws in the epoch: float64 [n]."""

    def weights(self, ids: Ids, is_cached: _Mask) -> Weights:
        """The weight of each one's loss when drawn: float32 [n]."""


class Uniform:
    """Each sample once."""

    digest_name: ClassVar[str] = "Uniform"

    def rates(self, ids: Ids, is_cached: _Mask) -> Rates:  # noqa: ARG002 - all the same
        return np.ones(len(ids))

    def weights(self, ids: Ids, is_cached: _Mask) -> Weights:  # noqa: ARG002
        return np.ones(len(ids), np.float32)


class Importance:
    """Rates (1 - floor) × score / mean + floor, scores clipped at their 98th percentile; weights are the inverse."""

    digest_name: ClassVar[str] = "Importance"

    def __init__(self, scores: ScoreTable) -> None:
        self._scores = scores
        quantiles = scores.quantiles()
        self._limit = float(quantiles[round(CLIP_QUANTILE * (len(quantiles) - 1))]) if len(quantiles) else np.inf
        self._mean = scores.mean(self._limit)

    def rates(self, ids: Ids, is_cached: _Mask) -> Rates:  # noqa: ARG002
        scores: Rates = np.minimum(self._scores.of(ids, self._mean).astype(np.float64), self._limit)
        rates: Rates = (1 - FLOOR) * scores / self._mean + FLOOR
        return rates

    def weights(self, ids: Ids, is_cached: _Mask) -> Weights:
        return (1 / self.rates(ids, is_cached)).astype(np.float32)


class Shade:
    """Log-scaled ranks by loss, and each cached sample three times as often.

    Repaired: ranks are among all samples, one never seen has the mean rank, a replay's weight is a third. As published:
    a sample never seen is starved, a replay's weight is 1. In neither do weights undo the ranks: that is the method.
    """

    digest_name: ClassVar[str] = "Shade"

    def __init__(self, scores: ScoreTable, cached: Ids, num_samples: int, *, as_published: bool) -> None:
        self._scores, self._quantiles, self._as_published = scores, scores.quantiles(), as_published
        cached_share = float(self._by_rank(cached).sum()) / max(num_samples, 1)
        self._hit_factor = min(SHADE_REPLAYS, 1 / cached_share) if cached_share else 1.0
        left = max(1 - self._hit_factor * cached_share, 0.0)
        self._miss_factor = left / (1 - cached_share) if cached_share < 1 else 1.0

    def rates(self, ids: Ids, is_cached: _Mask) -> Rates:
        rates: Rates = self._by_rank(ids) * np.where(is_cached, self._hit_factor, self._miss_factor)
        return rates

    def weights(self, ids: Ids, is_cached: _Mask) -> Weights:
        if self._as_published:
            return np.ones(len(ids), np.float32)
        return np.where(is_cached, 1 / self._hit_factor, 1 / max(self._miss_factor, FLOOR)).astype(np.float32)

    def _by_rank(self, ids: Ids) -> Rates:
        low, high = 10.0, 265.0  # ln(rank + 10) with the ranks of a batch of 256
        mean = (high * (math.log(high) - 1) - low * (math.log(low) - 1)) / (high - low)
        unseen = 1.0 if self._as_published and len(self._quantiles) else mean
        ranked = np.log(low + (high - low) * percentile(self._scores.of(ids), self._quantiles))
        return np.where(self._scores.visits(ids) > 0, ranked, unseen) / mean


class ICache:
    """Draws a sample with probability percentile(loss)^0.33; in every third epoch, each sample once."""

    digest_name: ClassVar[str] = "ICache"

    def __init__(self, scores: ScoreTable, epoch: int) -> None:
        self._scores, self._quantiles = scores, scores.quantiles()
        self.is_full = epoch < ICACHE_WARM_UP or epoch % ICACHE_REUSE == 0

    def rates(self, ids: Ids, is_cached: _Mask) -> Rates:  # noqa: ARG002
        if self.is_full:
            return np.ones(len(ids))
        kept: Rates = percentile(self._scores.of(ids), self._quantiles) ** ICACHE_BETA
        return kept

    def weights(self, ids: Ids, is_cached: _Mask) -> Weights:  # noqa: ARG002
        return np.ones(len(ids), np.float32)


def percentile(scores: npt.NDArray[np.float32], quantiles: npt.NDArray[np.float32]) -> Rates:
    """Share of the samples whose scores are lower, from evenly spaced `quantiles`: float64 [n]; 0.5 without any."""
    if not len(quantiles):
        return np.full(len(scores), 0.5)
    shares: Rates = np.searchsorted(quantiles, scores) / len(quantiles)
    return shares


def counts(rates: Rates, rng: np.random.Generator) -> Ids:
    """How often to draw each, int64 [n]: the rate rounded up or down at random, so that its expectation is the rate."""
    return np.floor(rates + rng.random(len(rates))).astype(np.int64)


def effective_sample_size(weights: Weights) -> float:
    """(Σw)² / Σw²: the number of equally weighted samples that carry the same information (Kish 1965)."""
    squares = float(np.square(weights, dtype=np.float64).sum())
    return float(weights.sum(dtype=np.float64)) ** 2 / squares if squares else 0.0


def tau(scores: npt.NDArray[np.float32]) -> float:
    """The gain of importance sampling by these scores over uniform sampling, >= 1: √(n·Σp²) with p = score/Σ."""
    total = float(scores.sum(dtype=np.float64))
    return math.sqrt(len(scores) * float(np.square(scores, dtype=np.float64).sum())) / total if total > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether scores differ enough to sample by them: the smoothed `tau` of mini-batches drawn uniformly."""

    tau: float = 1.0

    @property
    def is_open(self) -> bool:
        return self.tau > TAU_THRESHOLD

    def after(self, scores: npt.NDArray[np.float32]) -> "Gate":
        """The gate after one more mini-batch's scores."""
        return replace(self, tau=TAU_SMOOTHING * self.tau + (1 - TAU_SMOOTHING) * tau(scores))

    def encode(self) -> str:
        """The gate as text."""
        return self.tau.hex()

    @classmethod
    def decode(cls, text: str) -> "Gate":
        """The gate that was encoded, bit for bit. Raises FormatError."""
        try:
            value = float.fromhex(text)
        except (ValueError, OverflowError) as error:
            raise FormatError(f"no gate: {text!r:.40}") from error
        if not 0 <= value < math.inf:
            raise FormatError(f"no gate: {text!r:.40}")
        return cls(value)
