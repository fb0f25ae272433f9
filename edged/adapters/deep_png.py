"""PNG of 16 bits a sample as 8 bits, by the bits that are in use.

A camera of 10 or 12 bits often leaves the upper ones empty: cut to the upper 8, its pictures would be black. How many
bits are in use:

- what the chunk sBIT says; of one whose samples are scaled to 16 bits, as the PNG specification has it, all 16 are;
- without it, the smallest of 8, 10, 12, 14 and 16 that the image's largest sample fits into. So a dark image may come
  out brighter than others of its camera, which sBIT prevents.

See also: https://www.w3.org/TR/png-3/#11sBIT.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

_BITS = (8, 10, 12, 14, 16)
_SIGNATURE_BYTES, _CHUNK_BYTES = 8, 12
_ROWS = 64

Bytes = npt.NDArray[np.uint8]
"""uint8 [height, width, channels]."""


def is_deep(image: PngImageFile) -> bool:
    """Whether the image, which is not loaded yet, has 16 bits a sample."""
    return _raw_mode(image).endswith(";16B")


def as_eight_bits(image: PngImageFile, payload: bytes) -> Image.Image:
    """The deep `image`, not loaded yet, in mode L, LA, RGB or RGBA. Raises what Pillow raises for damaged bytes."""
    high, low = _halves(image, payload)
    num_colours = 3 if high.shape[-1] >= 3 else 1
    colours = slice(num_colours)
    eight = _scaled(high[..., colours], low[..., colours], _sbit(payload))
    if high.shape[-1] > num_colours:
        alpha = _scaled(high[..., num_colours:], low[..., num_colours:], None)
        eight = np.concatenate([eight, alpha], axis=-1)
    elif (key := image.info.get("transparency")) is not None:
        alpha = np.zeros((*high.shape[:2], 1), np.uint8)
        for channel, value in enumerate(np.array(key, np.uint16).reshape(-1).tolist()):
            differs = (high[..., channel] != value >> 8) | (low[..., channel] != value & 255)
            np.maximum(alpha[..., 0], differs * np.uint8(255), out=alpha[..., 0])
        eight = np.concatenate([eight, alpha], axis=-1)
    return Image.fromarray(eight[..., 0] if eight.shape[-1] == 1 else eight)


def _halves(image: PngImageFile, payload: bytes) -> tuple[Bytes, Bytes]:
    """The upper and the lower bytes of all samples. Pillow has a mode of 16 bits for grey only."""
    raw_mode = _raw_mode(image)
    if raw_mode == "I;16B":
        image.load()
        grey = np.asarray(image)[..., np.newaxis]
        return (grey >> 8).astype(np.uint8), grey.astype(np.uint8)
    if raw_mode == "LA;16B":  # read as if its four bytes were four channels
        both = _loaded(image, "RGBA")
        return both[..., 0::2], both[..., 1::2]
    lower = PngImageFile(io.BytesIO(payload))
    return _loaded(image, raw_mode), _loaded(lower, raw_mode.replace("16B", "16L"))


def _loaded(image: PngImageFile, raw_mode: str) -> Bytes:
    image.tile = [image.tile[0]._replace(args=raw_mode)]
    image.load()
    return np.asarray(image)


def _raw_mode(image: PngImageFile) -> str:
    args: Any = image.tile[0].args if image.tile else ""
    return args if isinstance(args, str) else ""


def _scaled(high: Bytes, low: Bytes, sbit: int | None) -> Bytes:
    bits = _num_bits(high, low, sbit)
    return high if bits == 16 else (high << np.uint8(16 - bits)) | (low >> np.uint8(bits - 8))


def _num_bits(high: Bytes, low: Bytes, sbit: int | None) -> int:
    largest = int(high.max(initial=0))
    least = next(bits for bits in _BITS if largest < 1 << (bits - 8))
    if sbit is None:
        return least
    if least > sbit:
        return 16
    return 16 if _is_scaled(high, low, sbit) else max(sbit, 8)


def _is_scaled(high: Bytes, low: Bytes, sbit: int) -> bool:
    """Whether the bits below the upper `sbit` are zeros in all samples, or repeat these; a few rows at a time."""
    zeros = repeated = True
    for row in range(0, len(high), _ROWS):
        samples = high[row : row + _ROWS].astype(np.uint16) << 8 | low[row : row + _ROWS]
        upper = samples >> (16 - sbit) << (16 - sbit)
        zeros = zeros and bool((samples == upper).all())
        repeated = repeated and bool((samples == upper | upper >> sbit).all())
    return zeros or repeated


def _sbit(payload: bytes) -> int | None:
    """The most significant bits of a colour, by the chunk sBIT; None if there is none that can be."""
    content = next((content for name, content in _chunks(payload) if name == b"sBIT"), b"")
    bits = max(content[:3] if len(content) >= 3 else content[:1], default=0)
    return bits if 0 < bits <= 16 else None


def _chunks(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of each chunk before the pixels."""
    at = _SIGNATURE_BYTES
    while at + _CHUNK_BYTES <= len(payload):
        size, name = int.from_bytes(payload[at : at + 4], "big"), payload[at + 4 : at + 8]
        if name == b"IDAT":
            return
        yield name, payload[at + 8 : at + 8 + size]
        at += _CHUNK_BYTES + size
