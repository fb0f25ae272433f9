"""A cached sample, and its encoding for a disk that may tear, mix up or alter what it holds.

See also: `adapters.disk.sqlite_cache` for where entries are stored, `policy` for which ones.
"""

import struct
import zlib
from dataclasses import dataclass

from edged.domain.samples.sample import CODECS, Address
from edged.errors import FormatError

SampleKey = Address
"""A sample's stable key in the cache. A snapshot's dense ids shift as the archive grows; addresses do not."""

MAX_PAYLOAD_BYTES = 16 << 20
"""No payload of a stream comes near it; `encode` never writes a larger size."""

ENTRY_OVERHEAD_BYTES = 256
"""Memory of an entry besides its payload: its key, its objects, its rows in the tables."""

_VERSION = 1
_HEAD = struct.Struct("<BBBHII")  # version, flags, codec, bytes of the label, of the payload, CRC-32 of all else
_DEFLATED = 1
_NO_LABEL = 0xFFFF
_MIN_GAIN = 0.9
"""A payload is stored compressed if that takes less than this share of its bytes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample's payload as received, in `codec` (one of `sample.CODECS`), and its label, None when unlabelled."""

    payload: bytes
    codec: str
    label: str | None

    @property
    def num_bytes(self) -> int:
        """Bytes of the payload."""
        return len(self.payload)


def encode(key: SampleKey, entry: Entry, *, compress: bool = False) -> bytes:
    """The entry as a blob whose CRC-32 also covers the key: under another key it does not decode.

    `compress`: deflate the payload (zlib, level 1) if that saves more than a tenth. Raises FormatError for a payload
    or a label that is too large.
    """
    label = b"" if entry.label is None else entry.label.encode()
    if len(entry.payload) > MAX_PAYLOAD_BYTES or len(label) >= _NO_LABEL:
        raise FormatError(f"an entry of {len(entry.payload)} bytes with a label of {len(label)} is too large")
    flags, body = 0, entry.payload
    if compress and len(small := zlib.compress(body, 1)) < _MIN_GAIN * len(body):
        flags, body = _DEFLATED, small
    num_label = _NO_LABEL if entry.label is None else len(label)
    fields = (_VERSION, flags, CODECS.index(entry.codec), num_label, len(entry.payload))
    rest = label + body
    return _HEAD.pack(*fields, _crc(key, _HEAD.pack(*fields, 0), rest)) + rest


def decode(key: SampleKey, blob: bytes) -> Entry:
    """The entry that `encode` made for `key`. Raises FormatError for anything else: torn, altered, or another key's."""
    if len(blob) < _HEAD.size:
        raise FormatError(f"an entry of {len(blob)} bytes is torn")
    version, flags, codec, num_label, num_payload, crc = _HEAD.unpack_from(blob)
    rest = blob[_HEAD.size :]
    if version != _VERSION or flags & ~_DEFLATED or codec >= len(CODECS) or num_payload > MAX_PAYLOAD_BYTES:
        raise FormatError("not an entry of the cache")
    if crc != _crc(key, _HEAD.pack(version, flags, codec, num_label, num_payload, 0), rest):
        raise FormatError("an entry's CRC-32 does not match its content and key")
    ends_at = 0 if num_label == _NO_LABEL else num_label
    try:
        label = None if num_label == _NO_LABEL else rest[:ends_at].decode()
    except UnicodeDecodeError as error:
        raise FormatError("an entry's label is not text") from error
    payload = rest[ends_at:]
    if flags & _DEFLATED:
        payload = _inflated(payload, num_payload)
    if len(payload) != num_payload or len(rest) < ends_at:
        raise FormatError("an entry's sizes do not add up")
    return Entry(payload, CODECS[codec], label)


def _inflated(deflated: bytes, num_bytes: int) -> bytes:
    """Inflate; allocates at most one byte more than `num_bytes`."""
    try:
        return zlib.decompressobj().decompress(deflated, num_bytes + 1)
    except zlib.error as error:
        raise FormatError("an entry's payload does not inflate") from error


def _crc(key: SampleKey, head: bytes, rest: bytes) -> int:
    name = f"{key.source}/{key.offset}/{key.row}/".encode()
    return zlib.crc32(rest, zlib.crc32(head, zlib.crc32(name)))
