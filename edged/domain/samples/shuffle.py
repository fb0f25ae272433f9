"""The order in which a data set is imported or replayed."""

import numpy as np

from edged.domain.sampling import Ids


def shuffled(count: int, seed: int, turn: int = 0) -> Ids:
    """0 to count - 1 in the order drawn from (seed, turn): int64 [count].

    Import and sensor order a data set by it, so that one may take what the other leaves.
    """
    return np.random.default_rng((seed, turn)).permutation(count)
