"""The trend of a series."""

from collections.abc import Sequence

import numpy as np


def theil_sen(times: Sequence[float], values: Sequence[float]) -> float:
    """The median of the slopes of all pairs, in the values' unit per the times'.

    One value that falls into a checkpoint moves a least squares line; a median of neighbours' differences is blind to a
    leak that comes in steps. This is neither.
    """
    t, v = np.asarray(times, np.float64), np.asarray(values, np.float64)
    first, second = np.triu_indices(len(t), 1)
    return float(np.median((v[second] - v[first]) / (t[second] - t[first])))
