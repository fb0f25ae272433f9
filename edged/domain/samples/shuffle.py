"""The order in which a data set is imported or replayed."""

import numpy as np
import numpy.typing as npt


def shuffled(count: int, seed: int, pass_index: int = 0) -> npt.NDArray[np.int64]:
    """0 to count - 1 in the order drawn from (seed, pass_index): int64 [count].

    The importer and the sensor use the same order, so that one may take what the other leaves.
    """
    return np.random.default_rng((seed, pass_index)).permutation(count)
