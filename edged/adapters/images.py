"""JPEG and PNG through Pillow.

Covers decoding what devices send, which may be anything, and encoding for the sensor. Orientation and colour profiles
are ignored: pixels are used as stored.
"""

import io
import math
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from edged.domain.samples.codec import MAGIC
from edged.errors import RejectedRecord

MAX_PIXELS = 24_000_000
"""Pixels of a baseline JPEG: more than a 12-megapixel camera's. It is decoded line by line and at a reduced scale."""

MAX_WHOLE_PIXELS = 4_000_000
"""Pixels of an image that has to be in memory as a whole, PNG or a JPEG of several scans: some 50 MB of work space at
most. Four times the stream's pixels, if that is more."""

MAX_SCANS = 64
"""Scans of a JPEG: each covers all pixels again. Progressive encoders write about ten."""

_START_OF_SCAN = b"\xff\xda"
_END_OF_IMAGE = b"\xff\xd9"
_REDUCING_GAP = 2  # a JPEG is decoded at no less than twice the wanted size, then scaled smoothly
_QUALITY = 95

# Text chunks unpack to 64 MiB by default, before any pixel is asked for.
PngImagePlugin.MAX_TEXT_MEMORY = 1 << 20


class PillowDecoder:
    """A `ports.ImageDecoder`. Stateless: any thread may call it."""

    def __init__(self) -> None:
        # Pillow warns of odd metadata on stderr, where the log is.
        warnings.filterwarnings("ignore", module=r"PIL\.")

    def decode(self, payload: bytes, codec: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Pixels of `payload` as uint8 of `shape`: (height, width), or with 1, 3 or 4 channels.

        Raises RejectedRecord: not_an_image, too_many_pixels (by the header, before decoding), or truncated. Damage
        inside a JPEG that leaves its structure intact is not detected: the format has no checksums.
        """
        if not payload.startswith(MAGIC[codec]):
            raise RejectedRecord("not_an_image", f"does not begin as {codec} does")
        try:
            with _open(payload, codec) as image:
                _check_size(image, payload, shape)
                if codec == "png":
                    _open(payload, codec).verify()  # the checksums, which reading the pixels ignores
                return _pixels(image, shape)
        except (RejectedRecord, MemoryError):
            raise
        except Exception as error:
            # Hostile bytes make Pillow raise nearly anything; none of it is a reason to stop.
            raise RejectedRecord("truncated", f"{type(error).__name__}: {error!s:.120}") from error


def encode(pixels: npt.NDArray[np.uint8], codec: str) -> bytes:
    """uint8 [height, width, channels] as a JPEG or PNG file."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    file = io.BytesIO()
    image.save(file, codec, **({"quality": _QUALITY} if codec == "jpeg" else {}))
    return file.getvalue()


def _open(payload: bytes, codec: str) -> JpegImageFile | PngImageFile:
    """The header alone. Not by Image.open, which has other size limits and may return an MPO for a JPEG."""
    file = io.BytesIO(payload)
    return JpegImageFile(file) if codec == "jpeg" else PngImageFile(file)


def _check_size(image: JpegImageFile | PngImageFile, payload: bytes, shape: tuple[int, ...]) -> None:
    scans = _num_scans(image, payload)
    if scans > MAX_SCANS:
        raise RejectedRecord("too_many_pixels", f"{scans} scans; at most {MAX_SCANS}")
    line_by_line = isinstance(image, JpegImageFile) and "progressive" not in image.info and scans == 1
    limit = MAX_PIXELS if line_by_line else min(MAX_PIXELS, max(MAX_WHOLE_PIXELS, 4 * math.prod(shape[:2])))
    if math.prod(image.size) > limit:
        raise RejectedRecord("too_many_pixels", f"{image.width}×{image.height}; at most {limit} pixels")


def _num_scans(image: JpegImageFile | PngImageFile, payload: bytes) -> int:
    """How many times decoding covers the pixels. Within a scan's data 0xff is followed by 0x00 or a restart marker."""
    if not isinstance(image, JpegImageFile) or image.fp is None:
        return 1
    first = image.fp.tell()  # Pillow reads up to the first scan, past the thumbnails among the metadata
    end = payload.find(_END_OF_IMAGE, first)
    return 1 + payload.count(_START_OF_SCAN, first, end if end >= 0 else len(payload))


def _pixels(image: JpegImageFile | PngImageFile, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    height, width = shape[:2]
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[shape[2] if len(shape) > 2 else 1]
    if isinstance(image, JpegImageFile):
        image.draft("L" if mode == "L" else "RGB", (width * _REDUCING_GAP, height * _REDUCING_GAP))
    image.load()
    plain = _converted(image, mode)
    if plain.size != (width, height):
        plain = plain.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(plain, np.uint8).reshape(shape)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):  # convert() would clip values above 255 instead of scaling
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)
