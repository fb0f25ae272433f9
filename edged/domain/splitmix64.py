"""SplitMix64's finaliser: a hash of 64-bit integers with the same result on every machine."""

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]


def mixed(key: Keys) -> Keys:
    """The finaliser of SplitMix64 (Steele et al. 2014)."""
    key = key + np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = key ^ (key >> np.uint64(31))
    return mixed
