"""Gradients on the wire: compressed, taken apart into chunks, and what compression left out sent later.

Covers one vector at a time. Which records carry it is `exchange_records`' subject, what becomes of it `gradient_log`'s;
what is worth compressing is for the topology to say.

A blob is in the safetensors format (domain.tensors); the names of its tensors tell how it was compressed:
`none`: float32 [n]. `fp16`: float16 [n]. `int8`: int8 [n] in blocks of 1024, each with a `scale`. `top_k`: the largest
entries as `int8` and `scale`, and `deltas`, how far each entry lies behind the one before it. Compression is lossy but
for `none`; with error feedback (Seide et al. 2014; Stich et al. 2018, https://arxiv.org/abs/1809.07599), which is
`Residual`'s part, nothing is lost in the long run.
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
"""Numbers that have one scale in int8."""

_MAX_OVERHEAD_BYTES = 1024
_MAX_FP16 = float(np.finfo(np.float16).max)
_MIN_SCALE = float(np.finfo(np.float32).tiny)  # the inverse of a smaller one may overflow
_WIDTHS: tuple[np.dtype[Any], ...] = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32))
"""Of deltas."""
_SAMPLES = 4096

with np.errstate(invalid="ignore"):  # some of them are not numbers
    _FLOAT_OF_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""By the bits of the half: looking it up is faster than NumPy's conversion."""

Vector = npt.NDArray[np.float32]


def max_bytes(num_parameters: int) -> int:
    """No blob of so many numbers is larger, however it is compressed."""
    return 4 * num_parameters + _MAX_OVERHEAD_BYTES


def compress(vector: Vector, kind: Compression, *, top_k: float) -> bytes:
    """The blob of `vector`: float32 [n], finite; for `top_k` the share of its entries to keep, at least one of them.

    Errors of what `decompress` gives back: of fp16 2^-11 of the number, and 2^-25 where it is below 2^-14; numbers
    beyond ±65504 are cut. Of int8 1/254 of the largest magnitude in its block. Of top_k all of the entries that are
    left out, and int8's of the others, in blocks of those; of equal magnitudes the first are kept.
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
    """float32 [n], perhaps a read-only view into `blob`. Raises FormatError.

    That is for anything but a blob of `compress` for n numbers, and for numbers that are not finite. Allocates 4n
    bytes, and a small multiple of the blob's size.
    """
    if len(blob) > max_bytes(n):
        raise FormatError(f"{len(blob)} bytes for {n} numbers; at most {max_bytes(n)}")
    found, _ = tensors.decode(blob)
    match sorted(found):
        case ["float32"]:
            vector = _sized(found, "float32", "float32", n)
        case ["float16"]:
            vector = _widened(_sized(found, "float16", "float16", n))
        case ["int8", "scale"]:
            vector = _unquantised(found, n)
        case ["deltas", "int8", "scale"]:
            vector = _dense(found, n)
        case names:
            raise FormatError(f"no compression has the tensors {names}")
    if n and not (np.isfinite(vector.max()) and np.isfinite(vector.min())):
        raise FormatError("a number is not finite")
    return vector


def split(payload: bytes) -> list[bytes]:
    """`payload` in chunks of at most MAX_CHUNK_BYTES, which joined give it back; one, empty, of an empty one."""
    return [payload[at : at + MAX_CHUNK_BYTES] for at in range(0, max(len(payload), 1), MAX_CHUNK_BYTES)]


class Residual:
    """Error feedback: what this member found and the group's updates do not have yet, in units of sums.

    A gradient is the mean over `count` samples and weighs as many in the group's mean; the residual is the sum over
    samples. So sum of (count × mean) in = sum of (count × decompressed) out + residual, whatever the counts are. Starts
    with nothing. Memory: twice the vector.
    """

    def __init__(self, n: int) -> None:
        self._sum, self._scratch = np.zeros(n, np.float32), np.empty(n, np.float32)

    @property
    def sum(self) -> Vector:
        """float32 [n], read-only; a view that changes with the next call."""
        view = self._sum.view()
        view.flags.writeable = False
        return view

    def compress(self, mean: Vector, count: int, kind: Compression, *, top_k: float) -> bytes:
        """The blob of `mean`, float32 [n] over `count` >= 1 samples, and of what was left; keeps what it leaves out."""
        self._add(mean, count)
        sent = np.divide(self._sum, np.float32(count), out=self._scratch)
        blob = compress(sent, kind, top_k=top_k)
        if kind == "none":
            self.clear()
        else:
            self._add(decompress(blob, len(self._sum)), -count)
        return blob

    def put_back(self, blob: bytes, count: int) -> None:
        """Take back what `compress` gave for `count` samples: it came too late, the group did not use it."""
        self._add(decompress(blob, len(self._sum)), count)

    def clear(self) -> None:
        """Forget it: it belongs to weights that are long gone."""
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


def _unquantised(found: dict[str, Array], n: int) -> Vector:
    whole, rest = divmod(n, BLOCK)
    numbers = _sized(found, "int8", "int8", n)
    scale = _sized(found, "scale", "float32", whole + (rest > 0))
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


def _deltas(places: npt.NDArray[np.int64]) -> Array:
    """From place to place, in the width that takes the fewest bytes; its largest number: so far on, no entry there."""
    deltas = np.diff(places, prepend=0)
    sizes = [width.itemsize * (len(deltas) + int((deltas // _escape(width)).sum())) for width in _WIDTHS]
    width = _WIDTHS[sizes.index(min(sizes))]
    escapes, rest = np.divmod(deltas, _escape(width))
    ends = np.cumsum(escapes + 1)
    coded: Array = np.full(ends[-1] if len(ends) else 0, _escape(width), width)
    coded[ends - 1] = rest
    return coded


def _dense(found: dict[str, Array], n: int) -> Vector:
    values, places = tensors.require(found, "int8", "int8"), _places(found["deltas"])
    if len(places) != len(values):
        raise FormatError(f"{len(values)} values at {len(places)} places")
    if len(places) and (places[-1] >= n or (np.diff(places) <= 0).any()):
        raise FormatError(f"the places are not those of different ones of {n} numbers")
    vector = np.zeros(n, np.float32)
    vector[places] = _unquantised(found, len(values))
    return vector


def _places(deltas: Array) -> npt.NDArray[np.int64]:
    if deltas.ndim != 1 or deltas.dtype not in _WIDTHS:
        raise FormatError("deltas are of uint8, uint16 or uint32")
    is_entry = deltas != _escape(deltas.dtype)
    if len(deltas) and not is_entry[-1]:
        raise FormatError("no entry comes behind the last deltas")
    places: npt.NDArray[np.int64] = np.cumsum(deltas, dtype=np.int64)[is_entry]
    return places


def _escape(width: np.dtype[Any]) -> int:
    return int(np.iinfo(width).max)


def _largest(vector: Vector, k: int) -> npt.NDArray[np.int64]:
    """Where the k largest magnitudes are: int64 [k], rising; of equal ones the first."""
    magnitudes = np.abs(vector)
    places = np.flatnonzero(magnitudes >= _low_guess(magnitudes, k))
    if len(places) < k:
        places = np.arange(len(vector))
    found = magnitudes[places]
    least = np.partition(found, len(found) - k)[len(found) - k] if k else np.float32(np.inf)
    places, found = places[found >= least], found[found >= least]
    excess = len(places) - k
    return np.delete(places, np.flatnonzero(found == least)[-excess:]) if excess else places


def _low_guess(magnitudes: Vector, k: int) -> float:
    """What hardly fewer than k of the magnitudes reach, and seldom many more, by a sample of them."""
    sample = magnitudes[:: max(len(magnitudes) // _SAMPLES, 1)]
    expected = k * len(sample) / max(len(magnitudes), 1)
    rank = math.ceil(expected + 4 * math.sqrt(expected) + 4)
    return float(np.partition(sample, len(sample) - rank)[len(sample) - rank]) if rank < len(sample) else 0.0


def _sized(found: dict[str, Array], name: str, dtype: str, n: int) -> Array:
    array = tensors.require(found, name, dtype)
    if len(array) != n:
        raise FormatError(f"tensor {name!r} has {len(array)} numbers, not {n}")
    return array
