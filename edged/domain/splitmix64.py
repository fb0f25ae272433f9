"""SplitMix64's finaliser: a hash of 64-bit integers with the same result on every machine."""

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]


def mixed(keys: Keys) -> Keys:
    """The next output of SplitMix64 (Steele, Lea and Flood 2014) from each of `keys` as its state; any shape."""
    z = keys + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Keys = z ^ (z >> np.uint64(31))
    return result
