"""Augmentation: random views of the training samples, a pure function of (seed, epoch, sample id).

So neither threads nor a restart change what is drawn, and a sample looks different in each epoch. Flip, shift and crop
only choose where a pixel comes from: each sample gets one source row for every row, one source column for every
column. A series [length, channels] is an image of one row. Ignores labels.
"""

import numpy as np
import numpy.typing as npt

from edged.domain.splitmix64 import mixed
from edged.domain.topology import Augment

Images = npt.NDArray[np.float32]
_Floats = npt.NDArray[np.float64]

_DRAWS = 7


def augmented(x: Images, ids: npt.NDArray[np.int64], augment: Augment, *, seed: int, epoch: int) -> Images:
    """The views of the samples `ids` [n] in `epoch`: a new array, or `x` itself if there is nothing to do.

    `x`: [n, height, width, channels] or [n, length, channels]. Pixels from outside repeat the border.
    """
    if augment == Augment():
        return x
    images = x[:, None] if x.ndim == 3 else x
    _, height, width, _ = images.shape
    draws = _uniform(seed, epoch, ids)
    vertical, horizontal = augment.flip in {"vertical", "both"}, augment.flip in {"horizontal", "both"}
    scale = 1 - (1 - augment.crop) * draws[:, 0]
    rows = _sources(height, scale, augment.shift, draws[:, 1:4], flip=vertical)
    columns = _sources(width, scale, augment.shift, draws[:, 4:7], flip=horizontal)
    result = _along_columns(_along_rows(images, rows), columns)
    return result.reshape(x.shape)


def _uniform(seed: int, epoch: int, ids: npt.NDArray[np.int64]) -> _Floats:
    """Numbers [n, draws] in [0, 1): SplitMix64 (Steele, Lea and Flood 2014) of everything, one after the other."""
    state = np.full((len(ids), 1), seed & (1 << 64) - 1, np.uint64)
    for part in (np.full_like(state, epoch), ids.astype(np.uint64)[:, None], np.arange(_DRAWS, dtype=np.uint64)[None]):
        state = mixed(state ^ mixed(part))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _sources(size: int, scale: _Floats, shift: int, draws: _Floats, *, flip: bool) -> _Floats:
    """The source of every position along an axis: [n, size], within 0 to size - 1, whole unless scaled."""
    begin = draws[:, 0] * (1 - scale) * (size - 1)  # of the window, which is the scale's share of the axis
    positions = begin[:, None] + np.arange(size, dtype=np.float64) * scale[:, None]
    if flip:
        positions = np.where(draws[:, 1:2] < 0.5, positions[:, ::-1], positions)
    if size > 1:
        positions = positions + np.floor(draws[:, 2:3] * (2 * shift + 1)) - shift
    return np.clip(positions, 0, size - 1)


def _along_rows(images: Images, sources: _Floats) -> Images:
    """Rows at `sources` [n, height], linearly interpolated between two rows."""
    lower, share = _split(sources)
    sample = np.arange(len(images))[:, None]
    result: Images = images[sample, lower]
    if share.any():
        upper = images[sample, np.minimum(lower + 1, images.shape[1] - 1)]
        result += share[:, :, None, None] * (upper - result)
    return result


def _along_columns(images: Images, sources: _Floats) -> Images:
    """Columns at `sources` [n, width], linearly interpolated between two columns."""
    lower, share = _split(sources)
    sample, row = np.arange(len(images))[:, None, None], np.arange(images.shape[1])[:, None]
    result: Images = images[sample, row, lower[:, None]]
    if share.any():
        upper = images[sample, row, np.minimum(lower + 1, images.shape[2] - 1)[:, None]]
        result += share[:, None, :, None] * (upper - result)
    return result


def _split(sources: _Floats) -> tuple[npt.NDArray[np.int64], Images]:
    """The position at or before each source, and its fraction of the way to the next."""
    lower = np.floor(sources)
    return lower.astype(np.int64), (sources - lower).astype(np.float32)
