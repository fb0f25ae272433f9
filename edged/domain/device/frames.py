"""A device's samples as frames of a file that a crash may tear and a card may alter.

    mark, 4 bytes | bytes of the body | CRC-32 of the body, begun with the file's salt | body

The body is the sample's number, three times, its label and its payload. What is damaged is passed: the next mark with a
body that its checksum confirms is the next frame. The salt keeps a frame inside a payload from being taken for one.
"""

import struct
import zlib
from typing import NamedTuple

from edged.domain.device.sample import Kept
from edged.domain.samples.rules import MAX_KEY_BYTES
from edged.domain.samples.sample import MAX_BYTES

_MARK = b"\xedsam"
_HEAD = struct.Struct("<4sII")
_BODY = struct.Struct("<QqqqH")
_NO_LABEL = 0xFFFF

MAX_FRAME_BYTES = _HEAD.size + _BODY.size + MAX_KEY_BYTES + MAX_BYTES


class Scan(NamedTuple):
    """The whole frames of some bytes, each with where it ends, and the bytes that are done with.

    `end`: of the last whole frame; what follows it up to `consumed` is damaged.
    """

    frames: list[tuple[Kept, int]]
    consumed: int

    @property
    def end(self) -> int:
        return self.frames[-1][1] if self.frames else 0


def salt_of(name: str) -> int:
    """The salt of the file of this name."""
    return zlib.crc32(name.encode())


def encode(kept: Kept, salt: int) -> bytes:
    """The sample's frame."""
    label_bytes = _NO_LABEL if kept.label is None else len(kept.label)
    head = _BODY.pack(kept.number, kept.sampled_ms, kept.written_ms, kept.steady_ms, label_bytes)
    body = b"".join((head, kept.label or b"", kept.payload))
    return _HEAD.pack(_MARK, len(body), zlib.crc32(body, salt)) + body


def num_bytes(label: bytes | None, payload: bytes) -> int:
    """The length of the frame of such a sample."""
    return _HEAD.size + _BODY.size + len(label or b"") + len(payload)


def scan(data: bytes, salt: int, *, is_all: bool) -> Scan:
    """The frames in `data`, which begins where a frame did. Never raises; allocates no more than the frames found.

    Not `is_all`: more follows, so what may be the beginning of a frame is not consumed. At least MAX_FRAME_BYTES are
    then needed to get on.
    """
    frames: list[tuple[Kept, int]] = []
    at = 0
    while (at := data.find(_MARK, at)) >= 0 and at + _HEAD.size <= len(data):
        _mark, length, checksum = _HEAD.unpack_from(data, at)
        begin = at + _HEAD.size
        is_frame = _BODY.size <= length <= MAX_FRAME_BYTES - _HEAD.size
        if is_frame and begin + length > len(data) and not is_all:
            return Scan(frames, at)
        body = data[begin : begin + length] if is_frame else b""
        kept = _decode(body) if len(body) == length and zlib.crc32(body, salt) == checksum else None
        if kept is None:
            at += 1
        else:
            at = begin + length
            frames.append((kept, at))
    if is_all:
        return Scan(frames, len(data))
    return Scan(frames, at if at >= 0 else max(len(data) - len(_MARK) + 1, frames[-1][1] if frames else 0))


def _decode(body: bytes) -> Kept | None:
    if len(body) < _BODY.size:
        return None
    number, sampled_ms, written_ms, steady_ms, label_bytes = _BODY.unpack_from(body)
    rest = body[_BODY.size :]
    if label_bytes == _NO_LABEL:
        return Kept(number, sampled_ms, written_ms, steady_ms, None, rest)
    if label_bytes > len(rest):
        return None
    return Kept(number, sampled_ms, written_ms, steady_ms, rest[:label_bytes], rest[label_bytes:])
