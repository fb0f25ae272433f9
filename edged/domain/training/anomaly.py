"""Anomaly scores: an autoencoder's reconstruction error of a sample, and the threshold above which it is unusual.

The score is the loss that the autoencoder was trained with, so scores and losses can be compared. It does not tell what
is wrong with a sample.
"""

import numpy as np
import numpy.typing as npt

from edged.domain.nn.loss import mean_squared_error

Samples = npt.NDArray[np.float32]

THRESHOLD_PERCENT = 99.0
"""Percentage of the held-out samples at or below the threshold."""


def scores(x: Samples, reconstructed: Samples) -> Samples:
    """The mean over a sample's numbers of (reconstructed - x)², float32 [n, 1]; 0 is a perfect copy.

    `x`, `reconstructed`: n samples of the same size, of any shape. Not finite where the square overflows.
    """
    with np.errstate(over="ignore"):
        losses, _ = mean_squared_error(reconstructed.reshape(len(x), -1), x.reshape(len(x), -1))
    return losses[:, None].astype(np.float32, copy=False)


def threshold(losses: Samples) -> float | None:
    """The THRESHOLD_PERCENT percentile of held-out samples' losses [n]; None without any."""
    return float(np.percentile(losses, THRESHOLD_PERCENT)) if len(losses) else None
