"""PNG files that Pillow does not write: of any depth, with sBIT, a transparent colour and metadata."""

import struct
import zlib

import numpy as np

_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}


def png(samples, *, bits=16, sbit=None, key=None, exif=None):
    """uint16 [height, width, channels] as a PNG of `bits` bits a sample."""
    height, width, channels = samples.shape
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, _COLOUR_TYPE[channels], 0, 0, 0))]
    if sbit is not None:
        chunks.append((b"sBIT", bytes(sbit)))
    if key is not None:
        chunks.append((b"tRNS", struct.pack(f">{len(key)}H", *key)))
    chunks.append((b"IDAT", zlib.compress(b"".join(b"\0" + _row(row, bits) for row in samples))))
    if exif is not None:
        chunks.append((b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    chunks.append((b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def _row(row, bits):
    if bits >= 8:
        return row.astype(">u2" if bits == 16 else "u1").tobytes()
    each = (row.reshape(-1, 1) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(each.astype(np.uint8).ravel()).tobytes()


def _chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
