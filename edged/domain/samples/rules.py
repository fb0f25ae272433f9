"""Whether a device's record is valid, as far as that can be told without an array: what a device's program checks, too.

Covers keys, lengths, first bytes and, of a single sample, its numbers. See also: `codec`, which checks the numbers of
many at once, and is the edge's.
"""

import array
import math
import sys
from collections.abc import Callable, Mapping

from edged.domain.counted import counted
from edged.domain.samples.sample import MAX_BYTES
from edged.domain.text import normal_form, shown
from edged.domain.topology import Codec, Stream
from edged.errors import RejectedRecord

TOO_LARGE = "too_large"
"""The reason for which more bytes than may be are refused: one of `domain.samples.sample.REASONS`."""

MAX_KEY_BYTES = 256
"""Bytes of a record's key, which is a label; no name is longer."""

MAGIC: Mapping[str, bytes] = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
"""The first bytes of each compressed codec's files."""

MAX_MAGNITUDE = 1e18
"""Of a number in a float32 payload. The square of 2e19 is infinite, and one such loss would ruin the weights."""

MIN_MAGNITUDE = 2.0**-126
"""Of a number in a float32 payload that is not 0. CPUs compute with smaller ones, denormal, up to 100 times slower."""

DENORMAL = "all values are below 1.2e-38: is it little-endian float32?"

_VALUE_BYTES = {"uint8": 1, "float32": 4}


def check_record(key: bytes | None, value: bytes, stream: Stream, codec: Codec) -> str | None:
    """As `codec.check_record`, with the same result for every record."""
    return checked(key, value, stream, codec, check_numbers)


def checked(
    key: bytes | None, value: bytes, stream: Stream, codec: Codec, check_numbers: Callable[[bytes], None]
) -> str | None:
    """The label of a device's record; `check_numbers` raises RejectedRecord for a float32 payload."""
    if not value:
        raise RejectedRecord("empty")
    label = _label(key, stream)
    check_payload(value, stream, codec, check_numbers)
    return label


def check_payload(value: bytes, stream: Stream, codec: str, check_numbers: Callable[[bytes], None]) -> None:
    """Raise RejectedRecord unless `value` may be a payload of the stream in `codec`; an image is not decoded."""
    if not value:
        raise RejectedRecord("empty")
    if codec == "raw":
        check_length(value, stream)
        if stream.dtype == "float32":
            check_numbers(value)
    if len(value) > MAX_BYTES:
        raise RejectedRecord(TOO_LARGE, f"{counted(len(value), 'byte')}; at most {MAX_BYTES}")
    if codec != "raw" and not value.startswith(MAGIC[codec]):
        raise RejectedRecord("not_an_image", _not_of(codec, value))


def _not_of(codec: str, value: bytes) -> str:
    other = next((name for name, magic in MAGIC.items() if value.startswith(magic)), None)
    return f"is a {other}; the device's codec is {codec}" if other else f"does not begin as {codec} does"


def check_label(label: str, stream: Stream) -> None:
    """Raise RejectedRecord(unknown_label) for a label that the stream does not have."""
    if label not in stream.labels:
        quoted = f'"{shown(label):.80}"'
        raise RejectedRecord("unknown_label", f"{quoted} is not one of the {len(stream.labels)} of {stream.name}")


def check_length(value: bytes, stream: Stream) -> None:
    """Raise RejectedRecord(wrong_length) unless the raw payload fills the stream's shape."""
    if len(value) != raw_bytes(stream):
        raise RejectedRecord("wrong_length", f"{counted(len(value), 'byte')}; a sample has {raw_bytes(stream)}")


def check_numbers(value: bytes) -> None:
    """Raise RejectedRecord for NaN, for numbers beyond MAX_MAGNITUDE, and for a sample of nothing but denormal ones.

    Whole numbers in network byte order are denormal (1.0 is 4.6e-41), and zeros are zeros: both have all of a sample.
    """
    numbers = array.array("f", value)
    if sys.byteorder == "big":
        numbers.byteswap()
    if not math.isfinite(sum(numbers)):  # of float32, as float64, no sum of finite ones is infinite
        raise RejectedRecord("not_finite")
    highest, lowest = max(numbers), min(numbers)
    largest = max(highest, -lowest)
    if largest > MAX_MAGNITUDE:
        raise RejectedRecord("not_finite")
    if 0 < largest < MIN_MAGNITUDE:
        raise RejectedRecord("denormal", DENORMAL)


def raw_bytes(stream: Stream) -> int:
    """The exact length of a raw payload."""
    return math.prod(stream.shape) * _VALUE_BYTES[stream.dtype]


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
