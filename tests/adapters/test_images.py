"""Images from any device: decoded to the stream's shape, or rejected with a reason."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile

from edged.adapters import images
from edged.domain.samples.sample import REASONS
from edged.errors import RejectedRecord
from tests.support.data import birds

DECODER = images.PillowDecoder()
SHAPE = (32, 48, 3)


def picture(height=300, width=200, channels=3):
    """A smooth picture that survives JPEG."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [255 * x / width, 255 * y / height, 255 * (x + y) / (height + width)]
    return np.stack(planes[:channels], axis=-1).astype(np.uint8)


def saved(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def jpeg(pixels, **options):
    return saved(Image.fromarray(pixels), "JPEG", **options)


def reason_of(payload, codec, shape=SHAPE):
    with pytest.raises(RejectedRecord) as caught:
        DECODER.decode(payload, codec, shape)
    assert caught.value.reason in REASONS
    return caught.value.reason


@pytest.mark.parametrize("channels", [1, 3])
def test_png_preserves_the_pixels(channels):
    pixels = picture(channels=channels)
    np.testing.assert_array_equal(DECODER.decode(images.encode(pixels, "png"), "png", pixels.shape), pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_nearly_preserves_the_pixels(channels):
    pixels = picture(channels=channels)
    decoded = DECODER.decode(images.encode(pixels, "jpeg"), "jpeg", pixels.shape)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - pixels).max() < 8


@pytest.mark.parametrize("codec", ["jpeg", "png"])
@pytest.mark.parametrize("size", [(2000, 1500), (60, 90), (24, 36)])
def test_any_size_is_scaled_to_the_streams(codec, size):
    decoded = DECODER.decode(images.encode(picture(*size), codec), codec, SHAPE)
    assert decoded.shape == SHAPE
    wanted = picture(*SHAPE[:2]).astype(int)
    assert np.abs(decoded.astype(int) - wanted).mean() < 10


@pytest.mark.parametrize("codec", ["jpeg", "png"])
@pytest.mark.parametrize(("sent", "wanted"), [(1, 3), (3, 1)])
def test_channels_are_converted_to_the_streams(codec, sent, wanted):
    pixels = np.full((20, 20, sent), 77, np.uint8)
    decoded = DECODER.decode(images.encode(pixels, codec), codec, (20, 20, wanted))
    np.testing.assert_array_equal(decoded, np.full((20, 20, wanted), 77))


def test_a_shape_without_channels_is_grey():
    assert DECODER.decode(images.encode(picture(channels=1), "png"), "png", (30, 20)).shape == (30, 20)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "I;16"])
def test_every_kind_of_png_is_converted(mode):
    image = Image.fromarray(np.full((8, 8), 0x8080, np.uint16)) if mode == "I;16" else Image.new(mode, (8, 8), 1)
    expected = {"1": 255, "P": None, "LA": None, "RGBA": None, "I;16": 0x80}[mode]
    decoded = DECODER.decode(saved(image, "PNG"), "png", (8, 8, 1))
    assert decoded.shape == (8, 8, 1)
    assert expected is None or (decoded == expected).all()


def test_cmyk_and_progressive_jpegs_are_converted():
    assert DECODER.decode(saved(Image.new("CMYK", (64, 64)), "JPEG"), "jpeg", SHAPE).shape == SHAPE
    progressive = jpeg(picture(), progressive=True)
    decoded = DECODER.decode(progressive, "jpeg", (300, 200, 3)).astype(int)
    assert np.abs(decoded - DECODER.decode(jpeg(picture()), "jpeg", (300, 200, 3))).max() < 8


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "gif", "bmp"])
def test_formats_are_told_by_their_first_bytes_and_decoded(name):
    payload = saved(Image.fromarray(picture()), name)
    assert images.format_of(payload[: images.HEAD_BYTES]) == name
    decoded = DECODER.decode(payload, name, SHAPE).astype(int)
    assert np.abs(decoded - picture(*SHAPE[:2])).mean() < 10
    assert reason_of(payload[: len(payload) // 2], name) == "truncated"


def test_a_webp_is_turned_as_the_camera_was_held():
    exif = Image.Exif()
    exif[0x0112] = 6
    payload = saved(Image.fromarray(picture(48, 32)), "webp", lossless=True, exif=exif)
    np.testing.assert_array_equal(DECODER.decode(payload, "webp", (32, 48, 3)), np.rot90(picture(48, 32), -1))


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False}, {"exif": b"Exif\0\0"}], ids=str)
def test_a_huge_webp_is_refused_before_its_canvas_is_made(options, monkeypatch):
    payload = saved(Image.new("RGB", (2500, 1700)), "webp", **options)
    monkeypatch.setattr(images, "_open", lambda *_: pytest.fail("it was opened"))
    assert reason_of(payload, "webp") == "too_many_pixels"


@pytest.mark.parametrize("name", ["gif", "bmp"])
def test_a_huge_image_of_another_format_is_refused_before_it_is_decoded(name, monkeypatch):
    payload = saved(Image.new("L", (2500, 1700)), name)
    monkeypatch.setattr(ImageFile, "load", lambda _: pytest.fail("pixels were decoded"))
    assert reason_of(payload, name) == "too_many_pixels"


@pytest.mark.parametrize(
    "head", [b"", b"BM", b"BMW,3,4,5,6,7,8,9", b"GIF", b"RIFF\0\0\0\0WAVEfmt ", b"II*\0", b"\xff\xd8"]
)
def test_what_is_none_of_the_formats_has_no_format(head):
    assert images.format_of(head) is None


def test_a_camera_jpeg_of_12_megapixels_passes():
    payload = jpeg(np.tile(picture(300, 400), (10, 10, 1)), quality=60)
    assert DECODER.decode(payload, "jpeg", (224, 224, 3)).shape == (224, 224, 3)


def test_a_100_megapixel_png_is_refused_before_it_is_decoded(monkeypatch):
    bomb = saved(Image.new("L", (10_000, 10_000)), "PNG")
    assert len(bomb) < 200_000
    monkeypatch.setattr(PngImageFile, "load", lambda _: pytest.fail("pixels were decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason_of(bomb, "png") == "too_many_pixels"


def test_a_header_that_claims_billions_of_pixels_allocates_nothing():
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    assert reason_of(b"\x89PNG\r\n\x1a\n" + chunk + data, "png") == "too_many_pixels"


def test_a_jpeg_that_must_be_decoded_as_a_whole_may_have_fewer_pixels():
    image = Image.new("RGB", (5000, 2000))
    assert reason_of(saved(image, "JPEG", progressive=True), "jpeg") == "too_many_pixels"
    assert DECODER.decode(saved(image, "JPEG"), "jpeg", SHAPE).shape == SHAPE


def test_a_jpeg_of_endless_scans_is_refused():
    payload = jpeg(picture(), progressive=True)
    last_scan = payload.rindex(b"\xff\xda")
    scan = payload[last_scan:-2]
    assert reason_of(payload[:-2] + scan * 100 + payload[-2:], "jpeg") == "too_many_pixels"


def test_a_png_with_a_huge_compressed_text_is_refused():
    text = zlib.compress(b"x" * 1_000_000)
    body = b"zTXtk\x00\x00" + text
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    payload = images.encode(picture(), "png")
    after_header = 8 + 25
    assert reason_of(payload[:after_header] + chunk * 20 + payload[after_header:], "png") == "truncated"


@pytest.mark.parametrize("codec", ["jpeg", "png"])
@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.9, 0.99])
def test_an_image_that_ends_early_is_truncated(codec, share):
    whole = images.encode(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8), codec)
    assert reason_of(whole[: max(9, int(len(whole) * share))], codec) == "truncated"


def test_a_damaged_png_is_truncated():
    whole = bytearray(images.encode(picture(), "png"))
    whole[len(whole) // 2] ^= 0xFF
    assert reason_of(bytes(whole), "png") == "truncated"


@pytest.mark.parametrize("payload", [b"x", b"\xff\xd8", b"GIF89a" + bytes(100), b"\x89PNG", bytes(1000)])
@pytest.mark.parametrize("codec", ["jpeg", "png"])
def test_a_payload_without_the_magic_number_is_not_an_image(codec, payload):
    assert reason_of(payload, codec) == "not_an_image"


@pytest.mark.parametrize(("sent", "codec"), [("JPEG", "png"), ("PNG", "jpeg"), ("GIF", "png"), ("TIFF", "jpeg")])
def test_another_format_than_the_devices_is_refused(sent, codec):
    assert reason_of(saved(Image.fromarray(picture()), sent), codec) == "not_an_image"


@pytest.mark.parametrize("codec", ["jpeg", "png"])
def test_no_damage_raises_anything_but_a_rejection(codec):
    """Flips, cuts and insertions at random positions of a real file."""
    rng = np.random.default_rng(1)
    whole = images.encode(picture(64, 64), codec)
    for _ in range(400):
        damaged = bytearray(whole)
        for at in rng.integers(2, len(whole), rng.integers(1, 6)):
            damaged[at] = rng.integers(256)
        cut = int(rng.integers(len(whole) // 2, len(whole) + 1))
        try:
            decoded = DECODER.decode(bytes(damaged[:cut]), codec, SHAPE)
        except RejectedRecord as error:
            assert error.reason in REASONS  # noqa: PT017 - either outcome is right
        else:
            assert decoded.shape == SHAPE


def test_real_photographs_are_decoded():
    photographs = sorted(birds().glob("train/*/*.jpg"))[:20]
    assert photographs
    for path in photographs:
        decoded = DECODER.decode(path.read_bytes(), "jpeg", (64, 64, 3))
        assert decoded.shape == (64, 64, 3)
        with Image.open(path) as image:
            reference = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BOX), int)
        assert np.abs(decoded.astype(int) - reference).mean() < 6


def test_real_photographs_cut_short_are_truncated():
    for path in sorted(birds().glob("test/*/*.jpg"))[:10]:
        whole = path.read_bytes()
        assert reason_of(whole[: len(whole) * 3 // 4], "jpeg") == "truncated"
