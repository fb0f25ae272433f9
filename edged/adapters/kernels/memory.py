"""Memory that kernels.c reads and writes, and the checks of what others give to it.

C trusts what it is given; so every array passes here first: its type, its shape, that it lies in one piece.
"""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.domain.nn.buffer import Array, Buffer

_LINE_BYTES = 64
"""Of a cache: vectors that do not cross lines are read faster."""


class AlignedBuffer(Buffer):
    """A Buffer that begins at a cache line; `address` is null when it is empty."""

    def __init__(self, size: int, dtype: npt.DTypeLike = np.float32) -> None:
        raw = np.zeros(size * np.dtype(dtype).itemsize + _LINE_BYTES, np.uint8)
        start = -raw.ctypes.data % _LINE_BYTES
        self._flat: Array = raw[start : start + size * np.dtype(dtype).itemsize].view(dtype)
        self.address: int | None = self._flat.ctypes.data if size else None


class Tables:
    """Arrays of offsets that a struct points to, kept alive together."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def add(self, offsets: npt.ArrayLike) -> int:
        """The address of `offsets` as int32. Raises OverflowError beyond its range."""
        wide = np.asarray(offsets, np.int64)
        if wide.size and np.abs(wide).max() > np.iinfo(np.int32).max:
            raise OverflowError("an offset beyond 2^31")
        table = np.ascontiguousarray(wide, np.int32)
        self._kept.append(table)
        return table.ctypes.data

    def add_structs(self, structs: list[ctypes.Structure], kind: type[ctypes.Structure]) -> int:
        """The address of an array of `structs`, all of one `kind`."""
        array = (kind * len(structs))(*structs)
        self._kept.append(array)
        return ctypes.addressof(array)


def address_of(array: Array) -> int:
    """Where a contiguous array's elements begin."""
    return int(array.__array_interface__["data"][0])


def is_readable(array: Array, shape: tuple[int, ...]) -> bool:
    """Whether C can read `array` as it is; raises ValueError when it is not float32 of `shape`."""
    if array.dtype != np.float32 or array.shape != shape:
        raise ValueError(f"float32 {list(shape)} expected, not {array.dtype} {list(array.shape)}")
    return array.flags.c_contiguous and array.flags.aligned


def readable(array: Array, shape: tuple[int, ...]) -> Array:
    """`array`, or a copy that C can read; raises ValueError when it is not float32 of `shape`."""
    return array if is_readable(array, shape) else array.copy()


def check_writable(array: Array, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `array` is float32 of `shape` that C can write."""
    if not is_readable(array, shape) or not array.flags.writeable:
        raise ValueError("gradients that cannot be written where they are")
