"""Learning rate schedules: the factor of the learning rate by progress, and by batch size; pure functions.

Progress is counted in epochs, with fractions, because only their number is known in advance: how many samples an epoch
has depends on the archive.
"""

import math

from edged.domain.topology import Adam, Constant, Cosine, Optimizer, Schedule, Step


def factor(schedule: Schedule, progress: float, epochs: int) -> float:
    """The factor at `progress` epochs of `epochs`, from 0 to 1.

    During warm-up it rises linearly from nearly 0. Schedules count from the beginning, except the cosine, which falls
    from the end of the warm-up to the end of the last epoch, and stays there.
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


def batch_factor(optimizer: Optimizer, global_batch: int, reference_batch: int | None) -> float:
    """The factor for batches of `global_batch` samples if the rate is meant for `reference_batch`; 1 without one.

    Linear for sgd and lars (Goyal et al. 2017, https://arxiv.org/abs/1706.02677), square root for adam
    (Malladi et al. 2022, https://arxiv.org/abs/2205.10287).
    """
    ratio = 1.0 if reference_batch is None else global_batch / reference_batch
    return math.sqrt(ratio) if isinstance(optimizer, Adam) else ratio
