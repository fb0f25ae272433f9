"""Gradients on the wire: compression, chunks, and error feedback.

Covers one vector at a time; the topology chooses its compression. See also: `records` for the records that carry it,
`gradient_log` for their meaning.

A blob is in the safetensors format (domain.tensors); the names of its tensors tell how it was compressed:
`none`: float32 [n]. `fp16`: float16 [n]. `int8`: int8 [n] in blocks of 1024, each with a `scale`. `top_k`: the largest
entries as `int8` and `scale`, and `deltas`, the distance of each entry from the previous one. All but `none` are lossy;
with error feedback (Seide et al. 2014; Stich et al. 2018, https://arxiv.org/abs/1809.07599), see `Residual`, nothing is
lost in the long run.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.domain import tensors
from edged.domain.group.records import MAX_CHUNK_BYTES
from edged.domain.tensors import Array
from edged.domain.topology import Compression
from edged.errors import FormatError

BLOCK = 1024
"""Numbers that share one scale in int8."""

_MAX_OVERHEAD_BYTES = 1024
_MAX_FP16 = float(np.finfo(np.float16).max)
_MIN_SCALE = float(np.finfo(np.float32).tiny)  # the inverse of a smaller one may overflow
_WIDTHS: tuple[np.dtype[Any], ...] = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32))
"""Of `deltas`."""
_SAMPLES = 4096

with np.errstate(invalid="ignore"):  # some of them are not numbers
    _FLOAT_OF_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""By the bits of the half: a look-up is faster than NumPy's conversion."""

Vector = npt.NDArray[np.float32]


def max_bytes(num_parameters: int) -> int:
    """Upper bound of a blob of `num_parameters` numbers, however it is compressed."""
    return 4 * num_parameters + _MAX_OVERHEAD_BYTES


def compress(vector: Vector, kind: Compression, *, top_k: float) -> bytes:
    """The blob of `vector`: float32 [n], finite; for `top_k` the share of its entries to keep, at least one of them.

    Errors after `decompress`: fp16: 2^-11 of the number, or 2^-25 if it is below 2^-14; numbers beyond ±65504 are
    clipped. int8: 1/254 of the largest magnitude in the block. top_k: the whole of each entry left out, and int8's
    error for the others, in blocks of kept entries; of equal magnitudes the first are kept.
    """
    match kind:
        case "none":
            return tensors.encode({"float32": vector})
        case "fp16":
            return tensors.encode({"float16": _halved(vector)})
        case "int8":
            return tensors.encode(_quantised(vector))
        case "top_k":
            return tensors.encode(_sparse(vector, top_k))


def decompress(blob: bytes, n: int) -> Vector:
    """The vector in `blob`: float32 [n], perhaps a read-only view into it.

    Raises FormatError for anything but a blob of `compress` for n finite numbers. Allocates 4n bytes, and a small
    multiple of the blob's size.
    """
    if len(blob) > max_bytes(n):
        raise FormatError(f"{len(blob)} bytes for {n} numbers; at most {max_bytes(n)}")
    arrays, _ = tensors.decode(blob)
    match sorted(arrays):
        case ["float32"]:
            vector = _sized(arrays, "float32", "float32", n)
        case ["float16"]:
            vector = _widened(_sized(arrays, "float16", "float16", n))
        case ["int8", "scale"]:
            vector = _unquantised(arrays, n)
        case ["deltas", "int8", "scale"]:
            vector = _dense(arrays, n)
        case names:
            raise FormatError(f"no compression has the tensors {names}")
    if n and not (np.isfinite(vector.max()) and np.isfinite(vector.min())):
        raise FormatError("a number is not finite")
    return vector


def split(payload: bytes) -> list[bytes]:
    """`payload` in chunks of at most MAX_CHUNK_BYTES; one empty chunk for an empty one. Inverse: join them."""
    return [payload[at : at + MAX_CHUNK_BYTES] for at in range(0, max(len(payload), 1), MAX_CHUNK_BYTES)]


class Residual:
    """Error feedback: the part of this member's gradients that the group's updates lack so far, as a sum over samples.

    A gradient is the mean over `count` samples, and has that weight in the group's mean; the residual is a sum over
    samples. So sum of (count × mean) in = sum of (count × decompressed) out + residual, whatever the counts are. Starts
    at zero. Memory: twice the vector.
    """

    def __init__(self, n: int) -> None:
        self._sum, self._scratch = np.zeros(n, np.float32), np.empty(n, np.float32)

    @property
    def sum(self) -> Vector:
        """float32 [n]; a read-only view that changes with the next call."""
        view = self._sum.view()
        view.flags.writeable = False
        return view

    def compress(self, mean: Vector, count: int, kind: Compression, *, top_k: float) -> bytes:
        """The blob of `mean`, float32 [n] over `count` >= 1 samples, plus the residual; keeps what it leaves out."""
        self._add(mean, count)
        sent = np.divide(self._sum, np.float32(count), out=self._scratch)
        blob = compress(sent, kind, top_k=top_k)
        if kind == "none":
            self.clear()
        else:
            self._add(decompress(blob, len(self._sum)), -count)
        return blob

    def put_back(self, blob: bytes, count: int) -> None:
        """Take back what `compress` returned for `count` samples: it was late, and the group did not use it."""
        self._add(decompress(blob, len(self._sum)), count)

    def clear(self) -> None:
        """Reset to zero: the residual belongs to weights that are long gone."""
        self._sum.fill(0)

    def _add(self, mean: Vector, count: int) -> None:
        self._sum += np.multiply(mean, np.float32(count), out=self._scratch)


def _halved(vector: Vector) -> npt.NDArray[np.float16]:
    return np.clip(vector, -_MAX_FP16, _MAX_FP16).astype(np.float16)


def _widened(halves: Array) -> Vector:
    return _FLOAT_OF_HALF.take(halves.view(np.uint16))


def _quantised(vector: Vector) -> dict[str, Array]:
    n = len(vector)
    padded = np.zeros(-(-n // BLOCK) * BLOCK, np.float32)
    padded[:n] = vector
    blocks = padded.reshape(-1, BLOCK)
    scale = np.maximum(blocks.max(axis=1), -blocks.min(axis=1)) / np.float32(127)
    scale[scale < _MIN_SCALE] = 0
    blocks *= np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)[:, None]
    return {"int8": np.rint(padded, out=padded)[:n].astype(np.int8), "scale": scale}


def _unquantised(arrays: dict[str, Array], n: int) -> Vector:
    whole, rest = divmod(n, BLOCK)
    numbers = _sized(arrays, "int8", "int8", n)
    scale = _sized(arrays, "scale", "float32", whole + (rest > 0))
    if not (scale >= 0).all() or (scale > np.finfo(np.float32).max / 128).any():
        raise FormatError("a scale is negative or not finite")
    vector = np.empty(n, np.float32)
    end = whole * BLOCK
    np.multiply(numbers[:end].reshape(-1, BLOCK), scale[:whole, None], out=vector[:end].reshape(-1, BLOCK))
    np.multiply(numbers[end:], scale[whole:], out=vector[end:])
    return vector


def _sparse(vector: Vector, share: float) -> dict[str, Array]:
    kept = _largest(vector, min(math.ceil(share * len(vector)), len(vector)))
    return {**_quantised(vector[kept]), "deltas": _deltas(kept)}


def _deltas(positions: npt.NDArray[np.int64]) -> Array:
    """Distances between positions, in the width of fewest bytes; its largest number skips that far without an entry."""
    deltas = np.diff(positions, prepend=0)
    sizes = [width.itemsize * (len(deltas) + int((deltas // _escape(width)).sum())) for width in _WIDTHS]
    width = _WIDTHS[sizes.index(min(sizes))]
    escapes, rest = np.divmod(deltas, _escape(width))
    ends = np.cumsum(escapes + 1)
    coded: Array = np.full(ends[-1] if len(ends) else 0, _escape(width), width)
    coded[ends - 1] = rest
    return coded


def _dense(arrays: dict[str, Array], n: int) -> Vector:
    values, positions = tensors.require(arrays, "int8", "int8"), _positions(arrays["deltas"])
    if len(positions) != len(values):
        raise FormatError(f"{len(values)} values at {len(positions)} positions")
    if len(positions) and (positions[-1] >= n or (np.diff(positions) <= 0).any()):
        raise FormatError(f"the positions are not rising, or not among {n} numbers")
    vector = np.zeros(n, np.float32)
    vector[positions] = _unquantised(arrays, len(values))
    return vector


def _positions(deltas: Array) -> npt.NDArray[np.int64]:
    if deltas.ndim != 1 or deltas.dtype not in _WIDTHS:
        raise FormatError("deltas are of uint8, uint16 or uint32")
    is_entry = deltas != _escape(deltas.dtype)
    if len(deltas) and not is_entry[-1]:
        raise FormatError("no entry follows the last deltas")
    positions: npt.NDArray[np.int64] = np.cumsum(deltas, dtype=np.int64)[is_entry]
    return positions


def _escape(width: np.dtype[Any]) -> int:
    return int(np.iinfo(width).max)


def _largest(vector: Vector, k: int) -> npt.NDArray[np.int64]:
    """Positions of the k largest magnitudes: int64 [k], rising; of equal ones the first."""
    magnitudes = np.abs(vector)
    positions = np.flatnonzero(magnitudes >= _low_guess(magnitudes, k))
    if len(positions) < k:
        positions = np.arange(len(vector))
    guessed = magnitudes[positions]
    threshold = np.partition(guessed, len(guessed) - k)[len(guessed) - k] if k else np.float32(np.inf)
    positions, kept = positions[guessed >= threshold], guessed[guessed >= threshold]
    excess = len(positions) - k
    return np.delete(positions, np.flatnonzero(kept == threshold)[-excess:]) if excess else positions


def _low_guess(magnitudes: Vector, k: int) -> float:
    """A threshold, from a sample, that hardly fewer than k magnitudes reach, and seldom many more."""
    sample = magnitudes[:: max(len(magnitudes) // _SAMPLES, 1)]
    expected = k * len(sample) / max(len(magnitudes), 1)
    rank = math.ceil(expected + 4 * math.sqrt(expected) + 4)
    return float(np.partition(sample, len(sample) - rank)[len(sample) - rank]) if rank < len(sample) else 0.0


def _sized(arrays: dict[str, Array], name: str, dtype: str, n: int) -> Array:
    array = tensors.require(arrays, name, dtype)
    if len(array) != n:
        raise FormatError(f"tensor {name!r} has {len(array)} numbers, not {n}")
    return array
