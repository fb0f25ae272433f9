"""The order in which a data set is imported or replayed."""

import numpy as np
import numpy.typing as npt


def shuffled(count: int, seed: int, turn: int = 0) -> npt.NDArray[np.int64]:
    """0 to count - 1 in the order drawn from (seed, turn): int64 [count].

    Import and sensor order a data set by it, so that one may take what the other leaves.
    """
    return np.random.default_rng((seed, turn)).permutation(count)
