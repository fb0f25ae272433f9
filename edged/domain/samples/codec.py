"""Payloads: whether a device's record is valid, and the numbers in it.

Covers the rules for keys and sizes, raw payloads, normalisation and filling a mini-batch. Does not decode compressed
images: `fill` takes a function for that. See also: `ports.ImageDecoder`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.domain.counted import counted
from edged.domain.samples.pack import MAX_BYTES
from edged.domain.text import normal_form, shown
from edged.domain.topology import Codec, Stream
from edged.errors import RejectedRecord

MAX_KEY_BYTES = 256
"""Bytes of a record's key, which is a label; no name is longer."""

MAGIC: Mapping[str, bytes] = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
"""The first bytes of each compressed codec's files."""

Pixels = npt.NDArray[Any]
DecodeImage = Callable[[bytes, str, tuple[int, ...]], npt.NDArray[np.uint8]]

MAX_MAGNITUDE = 1e18
"""Of a number in a float32 payload. The square of 2e19 is infinite, and one such loss would ruin the weights."""

MIN_MAGNITUDE = float(np.finfo(np.float32).tiny)
"""Of a number in a float32 payload that is not 0. CPUs compute with smaller ones, denormal, up to 100 times slower."""


def check_record(key: bytes | None, value: bytes, stream: Stream, codec: Codec) -> str | None:
    """The label of a device's record, in `text.normal_form`; None when it has no key: unlabelled.

    Checks all that can be checked without decoding an image, cheapest first. Raises RejectedRecord with one of
    `sample.REASONS`.
    """
    if not value:
        raise RejectedRecord("empty")
    label = _label(key, stream)
    check_payload(value, stream, codec)
    return label


def check_payload(value: bytes, stream: Stream, codec: str) -> None:
    """Raise RejectedRecord unless `value` may be a payload of the stream in `codec`; an image is not decoded."""
    if not value:
        raise RejectedRecord("empty")
    if codec == "raw":
        _check_raw(value, stream)
    if len(value) > MAX_BYTES:
        raise RejectedRecord("too_large", f"{counted(len(value), 'byte')}; at most {MAX_BYTES}")
    if codec != "raw" and not value.startswith(MAGIC[codec]):
        raise RejectedRecord("not_an_image", f"does not begin as {codec} does")


def check_label(label: str, stream: Stream) -> None:
    """Raise RejectedRecord(unknown_label) for a label that the stream does not have."""
    if label not in stream.labels:
        quoted = f'"{shown(label):.80}"'
        raise RejectedRecord("unknown_label", f"{quoted} is not one of the {len(stream.labels)} of {stream.name}")


def class_index(stream: Stream) -> Mapping[str, int]:
    """The class number of each label: its index in the stream's list."""
    return {label: index for index, label in enumerate(stream.labels)}


def class_number(index: Mapping[str, int], label: str | None) -> int:
    """The class of a sample's label; -1 if it has none. What was archived long ago may be in another form."""
    if label is None:
        return -1
    number = index.get(label)
    return index.get(normal_form(label), -1) if number is None else number


def raw_dtype(stream: Stream) -> np.dtype[Any]:
    """The dtype of raw payloads: uint8, or little-endian float32 on every host."""
    return np.dtype("<f4" if stream.dtype == "float32" else "u1")


def raw_bytes(stream: Stream) -> int:
    """The exact length of a raw payload."""
    return math.prod(stream.shape) * raw_dtype(stream).itemsize


def decode_raw(payload: bytes, stream: Stream) -> Pixels:
    """The sample in a raw payload: a read-only view of the stream's shape and dtype.

    Raises RejectedRecord(wrong_length).
    """
    _check_length(payload, stream)
    return np.frombuffer(payload, raw_dtype(stream)).reshape(stream.shape)


def normalise(pixels: Pixels, out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
    """float32 of the same shape, in `out` if given: uint8 divided by 255, so within [0, 1].

    Floats are unchanged, but for those below MIN_MAGNITUDE, which become 0.
    """
    if out is None:
        out = np.empty(pixels.shape, np.float32)
    np.copyto(out, pixels)
    if pixels.dtype == np.uint8:
        np.divide(out, np.float32(255), out=out)
    else:
        out[np.abs(out) < MIN_MAGNITUDE] = 0
    return out


def fill(
    x: npt.NDArray[np.float32],
    payloads: Sequence[bytes],
    codecs: Sequence[str],
    stream: Stream,
    decode_image: DecodeImage,
) -> None:
    """Decode and normalise `payloads[i]`, in the codec `codecs[i]`, into `x[i]`: float32 [n, *stream.shape].

    If all are raw they are decoded at once. Raises RejectedRecord for a payload that cannot be decoded, or whose
    numbers `check_payload` refuses; `x` is then partly filled.
    """
    if all(codec == "raw" for codec in codecs):
        for payload in payloads:
            _check_length(payload, stream)
        samples = np.frombuffer(b"".join(payloads), raw_dtype(stream)).reshape(x.shape)
        _check_numbers(samples)
        normalise(samples, out=x)
    else:
        for row, payload, codec in zip(x, payloads, codecs, strict=True):
            if codec == "raw":
                _check_raw(payload, stream)
                pixels = decode_raw(payload, stream)
            else:
                pixels = decode_image(payload, codec, stream.shape)
            normalise(pixels, out=row)


def _label(key: bytes | None, stream: Stream) -> str | None:
    if key is None:
        return None
    if len(key) > MAX_KEY_BYTES:
        raise RejectedRecord("key_too_long", f"{counted(len(key), 'byte')}; at most {MAX_KEY_BYTES}")
    try:
        label = normal_form(key.decode())
    except UnicodeDecodeError as error:
        raise RejectedRecord("key_not_text", f"not UTF-8 at byte {error.start}") from error
    check_label(label, stream)
    return label


def _check_raw(value: bytes, stream: Stream) -> None:
    _check_length(value, stream)
    _check_numbers(np.frombuffer(value, raw_dtype(stream)).reshape(1, -1))


def _check_numbers(samples: Pixels) -> None:
    """Raise RejectedRecord for NaN, for numbers beyond MAX_MAGNITUDE, and for a sample of nothing but denormal ones.

    Whole numbers in network byte order are denormal (1.0 is 4.6e-41), and zeros are zeros: both have all of a sample.
    """
    if samples.dtype == np.uint8:
        return
    magnitudes = np.abs(samples)
    if not (magnitudes <= MAX_MAGNITUDE).all():  # NaN neither
        raise RejectedRecord("not_finite")
    largest = magnitudes.max(axis=tuple(range(1, samples.ndim)))
    if ((largest > 0) & (largest < MIN_MAGNITUDE)).any():
        raise RejectedRecord("denormal", "all values are below 1.2e-38: is it little-endian float32?")


def _check_length(payload: bytes, stream: Stream) -> None:
    if len(payload) != raw_bytes(stream):
        raise RejectedRecord("wrong_length", f"{counted(len(payload), 'byte')}; a sample has {raw_bytes(stream)}")
