"""Payloads: whether a device's record is valid, and the numbers in it.

Covers raw payloads, normalisation and filling a mini-batch. Does not decode compressed images: `fill` takes a function
for that. See also: `rules` (what a record may be) and `ports.ImageDecoder`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.domain.samples import rules
from edged.domain.samples.rules import DENORMAL, MAX_MAGNITUDE, MIN_MAGNITUDE, check_length
from edged.domain.text import normal_form
from edged.domain.topology import Codec, Stream
from edged.errors import RejectedRecord

Pixels = npt.NDArray[Any]
DecodeImage = Callable[[bytes, str, tuple[int, ...]], npt.NDArray[np.uint8]]


def check_record(key: bytes | None, value: bytes, stream: Stream, codec: Codec) -> str | None:
    """The label of a device's record, in `text.normal_form`; None when it has no key: unlabelled.

    Checks all that can be checked without decoding an image, cheapest first. Raises RejectedRecord with one of
    `sample.REASONS`.
    """
    return rules.checked(key, value, stream, codec, _check_one)


def check_payload(value: bytes, stream: Stream, codec: str) -> None:
    """Raise RejectedRecord unless `value` may be a payload of the stream in `codec`; an image is not decoded."""
    rules.check_payload(value, stream, codec, _check_one)


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


def decode_raw(payload: bytes, stream: Stream) -> Pixels:
    """The sample in a raw payload: a read-only view of the stream's shape and dtype.

    Raises RejectedRecord(wrong_length).
    """
    check_length(payload, stream)
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
            check_length(payload, stream)
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


def _check_raw(value: bytes, stream: Stream) -> None:
    check_length(value, stream)
    if stream.dtype == "float32":
        _check_one(value)


def _check_one(payload: bytes) -> None:
    _check_numbers(np.frombuffer(payload, "<f4").reshape(1, -1))


def _check_numbers(samples: Pixels) -> None:
    """As `rules.check_numbers`, of samples [n, …]."""
    if samples.dtype == np.uint8:
        return
    magnitudes = np.abs(samples)
    if not (magnitudes <= MAX_MAGNITUDE).all():  # NaN neither
        raise RejectedRecord("not_finite")
    largest = magnitudes.max(axis=tuple(range(1, samples.ndim)))
    if ((largest > 0) & (largest < MIN_MAGNITUDE)).any():
        raise RejectedRecord("denormal", DENORMAL)
