"""Schedules: what the learning rate is multiplied with, a pure function of how far training has come.

Progress is counted in epochs, with fractions, for only their number is known in advance: how many samples an epoch
has is up to the archive.
"""

import math

from edged.domain.topology import Constant, Cosine, Schedule, Step


def factor(schedule: Schedule, progress: float, epochs: int) -> float:
    """The factor at `progress` epochs of `epochs`, from 0 to 1.

    In the warm-up it rises linearly from nearly 0; the schedule itself counts from the beginning all the same, but for
    the cosine, which falls from the end of the warm-up to that of the last epoch and stays there.
    """
    warm = 1.0 if progress >= schedule.warmup else max(progress, 0.01 * schedule.warmup) / schedule.warmup
    match schedule:
        case Constant():
            return warm
        case Step():
            return warm * float(schedule.factor ** math.floor(progress / schedule.every))
        case Cosine():
            length = max(epochs - schedule.warmup, 1e-9)
            share = min(max((progress - schedule.warmup) / length, 0.0), 1.0)
            return warm * (schedule.floor + (1 - schedule.floor) * (1 + math.cos(math.pi * share)) / 2)
