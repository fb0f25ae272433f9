"""Images through Pillow, as viewers show them: the one decoder of all who need pixels.

JPEG and PNG, which devices send and archives keep, and WebP, GIF and BMP, which only data sets have.

Turned as the camera was held (EXIF), transparent parts on white, 16 bits a sample by the bits in use (`deep_png`), CMYK
inverted as Adobe has it, a JPEG without its end marker if nothing else is missing, and the first of several frames.
Colour profiles and gamma are not applied: colours are taken as sRGB. Also encodes, for the sensor.
"""

import io
import math
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from edged.adapters import deep_png
from edged.domain.counted import counted
from edged.domain.samples.rules import MAGIC
from edged.errors import RejectedRecord

MAX_PIXELS = 24_000_000
"""Pixels of a baseline JPEG: more than a 12-megapixel camera's. It is decoded line by line and at a reduced scale."""

MAX_WHOLE_PIXELS = 4_000_000
"""Pixels of an image that has to be in memory as a whole, PNG or a JPEG of several scans: some 50 MB of work space at
most, 80 MB with 16 bits a sample. Four times the stream's pixels, if that is more."""

MAX_SCANS = 64
"""Scans of a JPEG: each covers all pixels again. Progressive encoders write about ten."""

HEAD_BYTES = 32
"""How much of a file `format_of` has to see."""

_BMP_HEADER_BYTES = {bytes([size]) for size in (12, 40, 52, 56, 64, 108, 124)}
_MATCHES: Mapping[str, Callable[[bytes], bool]] = {
    "jpeg": lambda head: head.startswith(MAGIC["jpeg"]),
    "png": lambda head: head.startswith(MAGIC["png"]),
    "webp": lambda head: head[:4] == b"RIFF" and head[8:15] == b"WEBPVP8",
    "gif": lambda head: head[:6] in {b"GIF87a", b"GIF89a"},
    "bmp": lambda head: head[:2] == b"BM" and head[6:10] == bytes(4) and head[14:15] in _BMP_HEADER_BYTES,
}

_ORIENTATION = 0x0112
"""The EXIF tag."""
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FIRST_SIDEWAYS = 5
"""From this orientation on, width and height change places."""
_GREY_UNIT = {"L;2": 85, "L;4": 17}
"""What one step of a grey sample of 2 or 4 bits is in 8."""

_START_OF_SCAN = b"\xff\xda"
_END_OF_IMAGE = b"\xff\xd9"
_MORE_DATA = bytes(range(1, 255)) * 64
"""What a decoder takes for pixels as long as some are missing."""
_REDUCING_GAP = 2  # a JPEG is decoded at no less than twice the wanted size, then scaled smoothly
_QUALITY = 95

# Text chunks unpack to 64 MiB by default, before any pixel is asked for.
PngImagePlugin.MAX_TEXT_MEMORY = 1 << 20

# Pillow warns of odd metadata on stderr, where the log is.
warnings.filterwarnings("ignore", module=r"PIL\.")


class PillowDecoder:
    """A `ports.ImageDecoder`. Stateless: any thread may call it."""

    def decode(self, payload: bytes, codec: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Pixels of `payload` as uint8 of `shape`: (height, width), or with 1, 3 or 4 channels.

        `codec` may be any that `format_of` knows. Raises RejectedRecord: not_an_image, too_many_pixels (by the header,
        before decoding), or truncated. Damage inside a JPEG that leaves its structure intact is not detected: the
        format has no checksums.
        """
        if not _MATCHES[codec](payload[:HEAD_BYTES]):
            raise RejectedRecord("not_an_image", f"does not begin as {codec} does")
        try:
            return _decoded(payload, codec, shape)
        except (RejectedRecord, MemoryError):
            raise
        except Exception as error:
            # Hostile bytes make Pillow raise nearly anything; none of it is a reason to stop.
            unended = _without_end_marker(payload, shape) if codec == "jpeg" else None
            if unended is not None:
                return unended
            raise RejectedRecord("truncated", f"{type(error).__name__}: {error!s:.120}") from error


def format_of(head: bytes) -> str | None:
    """The format of the image that begins with `head`, at least HEAD_BYTES if it has as many; None: not one of these.

    "jpeg" and "png" are what devices send and archives keep; "webp", "gif" and "bmp" are to be converted.
    """
    return next((name for name, matches in _MATCHES.items() if matches(head)), None)


def encode(pixels: npt.NDArray[np.uint8], codec: str) -> bytes:
    """uint8 [height, width] or [height, width, channels] as a JPEG or PNG file."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    file = io.BytesIO()
    image.save(file, codec, **({"quality": _QUALITY} if codec == "jpeg" else {}))
    return file.getvalue()


def _decoded(payload: bytes, codec: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    if codec == "webp":
        _check_webp_canvas(payload, shape)
    with _open(payload, codec) as image:
        _check_size(image, payload, shape)
        if codec == "png":
            _open(payload, codec).verify()  # the checksums, which reading the pixels ignores
        return _pixels(image, payload, shape)


def _without_end_marker(payload: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    """The pixels of a JPEG that lacks its end marker and nothing else; None if there is more to it.

    A decoder makes pixels of whatever follows as long as some are missing, and of nothing once it has them all.
    """
    try:
        with _open(payload, "jpeg") as image:
            has_end = image.fp is None or payload.find(_END_OF_IMAGE, image.fp.tell()) >= 0
        if has_end:
            return None
        pixels, others = (_decoded(payload + more + _END_OF_IMAGE, "jpeg", shape) for more in (b"", _MORE_DATA))
    except (RejectedRecord, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - as in decode
        return None
    return pixels if np.array_equal(pixels, others) else None


def _open(payload: bytes, codec: str) -> ImageFile:
    """The header alone. Not by Image.open, which has other size limits and may return an MPO for a JPEG."""
    file = io.BytesIO(payload)
    match codec:
        case "jpeg":
            return JpegImageFile(file)
        case "png":
            return PngImageFile(file)
        case "webp":
            opener = "WebPImageFile"
        case _:
            opener = f"{codec.capitalize()}ImageFile"
    # Only data sets have these: an edge never loads their readers.
    image: ImageFile = getattr(import_module(f"PIL.{opener.removesuffix('File')}Plugin"), opener)(file)
    return image


def _check_webp_canvas(payload: bytes, shape: tuple[int, ...]) -> None:
    """By the header: Pillow makes the canvas as soon as it opens the file. See RFC 9649, sections 2.5 to 2.7."""
    kind, data = payload[12:16], payload[20:30]
    if kind == b"VP8X":
        size = [1 + int.from_bytes(data[at : at + 3], "little") for at in (4, 7)]
    elif kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        size = [1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)]
    else:
        size = [int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8)]
    _check_pixels(size[0], size[1], _max_whole_pixels(shape))


def _check_size(image: ImageFile, payload: bytes, shape: tuple[int, ...]) -> None:
    scans = _num_scans(image, payload)
    if scans > MAX_SCANS:
        raise RejectedRecord("too_many_pixels", f"{counted(scans, 'scan')}; at most {MAX_SCANS}")
    line_by_line = isinstance(image, JpegImageFile) and "progressive" not in image.info and scans == 1
    _check_pixels(image.width, image.height, MAX_PIXELS if line_by_line else _max_whole_pixels(shape))


def _check_pixels(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise RejectedRecord("too_many_pixels", f"{width}×{height}; at most {limit} pixels")


def _max_whole_pixels(shape: tuple[int, ...]) -> int:
    return min(MAX_PIXELS, max(MAX_WHOLE_PIXELS, 4 * math.prod(shape[:2])))


def _num_scans(image: ImageFile, payload: bytes) -> int:
    """How many times decoding covers the pixels. Within a scan's data 0xff is followed by 0x00 or a restart marker."""
    if not isinstance(image, JpegImageFile) or image.fp is None:
        return 1
    first = image.fp.tell()  # Pillow reads up to the first scan, past the thumbnails among the metadata
    end = payload.find(_END_OF_IMAGE, first)
    return 1 + payload.count(_START_OF_SCAN, first, end if end >= 0 else len(payload))


def _pixels(image: ImageFile, payload: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    height, width = shape[:2]
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[shape[2] if len(shape) > 2 else 1]
    if isinstance(image, JpegImageFile):
        sides = (width, height) if _orientation(image) < _FIRST_SIDEWAYS else (height, width)
        image.draft("L" if mode == "L" else "RGB", (sides[0] * _REDUCING_GAP, sides[1] * _REDUCING_GAP))
        image.load()
        plain: Image.Image = image
    elif isinstance(image, PngImageFile):
        plain = _loaded_png(image, payload)
    else:
        image.load()
        plain = image
    orientation = _orientation(image)  # a PNG may have it behind its pixels
    size = (width, height) if orientation < _FIRST_SIDEWAYS else (height, width)
    shown = _on_white(_resized(plain, mode, size), mode)
    if orientation in _TURN:
        shown = shown.transpose(_TURN[orientation])
    return np.asarray(shown, np.uint8).reshape(shape)


def _loaded_png(image: PngImageFile, payload: bytes) -> Image.Image:
    if deep_png.is_deep(image):
        return deep_png.as_eight_bits(image, payload)
    unit = _GREY_UNIT.get(str(image.tile[0].args) if image.tile else "", 1)
    image.load()
    if "transparency" in image.info and unit > 1:
        image.info["transparency"] *= unit
    return image


def _orientation(image: Image.Image) -> int:
    """How the camera was held, from 1 to 8; 1 where the metadata does not say. XMP does not count, as in browsers."""
    if not image.info.get("exif"):
        return 1
    try:
        exif = Image.Exif()
        exif.load(image.info["exif"])
        found = exif.get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - metadata of any kind; the picture is there without it
        return 1
    return found if found in _TURN else 1


def _resized(image: Image.Image, mode: str, size: tuple[int, int]) -> Image.Image:
    """In `mode`, or with alpha in LA or RGBA."""
    if image.has_transparency_data:
        mode = "LA" if mode == "L" and image.mode in {"1", "L", "LA"} else "RGBA"
    plain = image if image.mode == mode else image.convert(mode)
    return plain if plain.size == size else plain.resize(size, Image.Resampling.BILINEAR)


def _on_white(image: Image.Image, mode: str) -> Image.Image:
    """`image` in `mode`; what is transparent is on white, unless `mode` has alpha, too."""
    if mode == "RGBA" or image.mode not in {"LA", "RGBA"}:
        return image if image.mode == mode else image.convert(mode)
    opaque = image.convert(image.mode.removesuffix("A"))
    white = Image.new(opaque.mode, image.size, "white")
    white.paste(opaque, mask=image.getchannel("A"))
    return white if white.mode == mode else white.convert(mode)
