"""Images come out as every viewer shows them, whatever the device wrote."""

import functools
import io

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from edged.adapters.images import PillowDecoder, encode
from edged.errors import RejectedRecord
from tests.support.png import png

DECODER = PillowDecoder()
UPRIGHT = np.repeat(np.repeat(np.array([[[220, 40, 40], [30, 30, 200]], [[20, 90, 20], [250, 240, 10]]]), 16, 0), 24, 1)
UPRIGHT = UPRIGHT.astype(np.uint8)
"""[32, 48, 3]: red, blue; green, yellow."""

STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT, 1),
    7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}
"""The rows and columns as a camera that was held so stores them: EXIF 2.32, orientation."""


def saved(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def decoded(payload, codec, shape=UPRIGHT.shape):
    return DECODER.decode(payload, codec, shape).astype(int)


def mean_difference(one, other):
    return np.abs(one.astype(int) - other.astype(int)).mean()


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("codec", ["jpeg", "png"])
def test_a_picture_stands_upright_however_the_camera_was_held(orientation, codec):
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    payload = saved(image, codec, exif=oriented(orientation))
    assert mean_difference(decoded(payload, codec), UPRIGHT) < 4


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_large_picture_is_upright_and_not_squeezed(orientation):
    stored = np.repeat(np.repeat(STORED[orientation], 20, 0), 20, 1)
    payload = saved(Image.fromarray(stored), "jpeg", exif=oriented(orientation))
    assert mean_difference(decoded(payload, "jpeg"), UPRIGHT) < 4
    grey = decoded(payload, "jpeg", (32, 48))
    assert mean_difference(grey, np.asarray(Image.fromarray(UPRIGHT).convert("L"))) < 4


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(orientation):
    payload = saved(Image.fromarray(UPRIGHT), "png", exif=oriented(orientation))
    np.testing.assert_array_equal(decoded(payload, "png"), UPRIGHT)


@pytest.mark.filterwarnings("ignore")  # as the decoder has it, but for pytest
def test_damaged_metadata_costs_no_picture():
    exif = bytearray(oriented(6).tobytes())
    for at in range(6, len(exif)):
        damaged = bytes(exif[:at]) + b"\xff" + bytes(exif[at + 1 :])
        assert decoded(saved(Image.fromarray(UPRIGHT), "jpeg", exif=damaged), "jpeg").shape == UPRIGHT.shape


def half_transparent(mode):
    """The upper half is transparent, and black below its transparency; the lower half is 90 or [20, 90, 20]."""
    image = Image.new("RGBA", (8, 8), (20, 90, 20, 255))
    image.paste((0, 0, 0, 0), (0, 0, 8, 4))
    if mode == "LA":
        image = Image.merge("LA", (image.getchannel("G"), image.getchannel("A")))
    return image


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_on_white(mode, channels):
    shown = decoded(saved(half_transparent(mode), "png"), "png", (8, 8, channels))
    assert (shown[:4] == 255).all()
    lower = [90] * channels if mode == "LA" else [20, 90, 20] if channels == 3 else [61]
    assert (shown[4:] == lower).all()


def test_transparency_of_a_palette_and_of_one_colour_is_on_white():
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 20, 90, 20])
    palette.paste(0, (0, 0, 8, 4))
    for transparency in (0, b"\x00\xff", b"\x00"):
        shown = decoded(saved(palette, "png", transparency=transparency), "png", (8, 8, 3))
        assert (shown[:4] == 255).all()
        assert (shown[4:] == [20, 90, 20]).all()
    colour = half_transparent("RGBA").convert("RGB")
    shown = decoded(saved(colour, "png", transparency=(0, 0, 0)), "png", (8, 8, 3))
    assert (shown[:4] == 255).all()
    assert (shown[4:] == [20, 90, 20]).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_grey_is_on_white_at_any_depth(bits):
    levels = np.zeros((8, 8, 1), np.uint16)
    levels[4:] = 1
    shown = decoded(png(levels, bits=bits, key=[0]), "png", (8, 8, 1))
    assert (shown[:4] == 255).all()
    assert (shown[4:] == 255 // (2**bits - 1)).all()


def test_half_transparent_is_half_white_and_no_hidden_colour_shows():
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, ::2] = [200, 100, 0, 255]
    pixels[:, 1::2] = [0, 0, 0, 0]
    shown = decoded(saved(Image.fromarray(pixels), "png"), "png", (8, 8, 3))
    assert np.abs(shown[:, 1:-1] - [227, 177, 127]).max() <= 2


def test_a_stream_with_alpha_keeps_it():
    pixels = np.asarray(half_transparent("RGBA"))
    np.testing.assert_array_equal(decoded(saved(Image.fromarray(pixels), "png"), "png", (8, 8, 4)), pixels)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4], ids=["grey", "grey-alpha", "rgb", "rgba"])
def test_the_bits_in_use_of_16_are_scaled_to_8(bits, channels):
    eight = np.arange(256, dtype=np.uint16).reshape(16, 16, 1).repeat(channels, 2)
    if channels in {2, 4}:
        eight[..., -1] = 255
    samples = eight << (bits - 8) | eight >> (16 - bits)
    colour = channels >= 3
    shown = decoded(png(samples), "png", (16, 16, 3 if colour else 1))
    np.testing.assert_array_equal(shown, eight[..., : 3 if colour else 1])


def test_sbit_says_how_many_bits_are_in_use_where_the_range_of_an_image_does_not():
    dark = np.array([[[0], [200]]], np.uint16)  # of 10 bits: below a fifth of the range
    assert decoded(png(dark), "png", (1, 2, 1)).ravel().tolist() == [0, 200]
    assert decoded(png(dark, sbit=[10]), "png", (1, 2, 1)).ravel().tolist() == [0, 50]
    assert decoded(png(dark, sbit=[16]), "png", (1, 2, 1)).ravel().tolist() == [0, 0]


@pytest.mark.parametrize("low_bits", ["zeros", "repeated"])
def test_a_dark_image_that_is_scaled_as_the_specification_has_it_stays_dark(low_bits):
    of_12_bits = np.array([[[0], [161]]], np.uint16)
    scaled = of_12_bits << 4 | (of_12_bits >> 8 if low_bits == "repeated" else 0)
    assert decoded(png(scaled, sbit=[12]), "png", (1, 2, 1)).ravel().tolist() == [0, 10]


@pytest.mark.parametrize("key", [[4096], [4096, 4096, 4096]], ids=["grey", "rgb"])
def test_a_transparent_colour_of_16_bits_is_exactly_that_one(key):
    samples = np.array([[[4096], [4097], [65535]]], np.uint16).repeat(len(key), 2)
    assert decoded(png(samples, key=key), "png", (1, 3, 1)).ravel().tolist() == [255, 16, 255]


def test_a_deep_image_is_turned_and_scaled_like_any_other():
    samples = np.zeros((32, 16, 1), np.uint16)
    samples[:16] = 1023
    shown = decoded(png(samples, exif=oriented(6)), "png", (8, 16, 1))
    assert (shown[:, 9:] == 255).all()
    assert (shown[:, :7] == 0).all()


@pytest.mark.parametrize("ink", [(0, 255, 255, 0), (255, 0, 255, 0), (0, 0, 0, 0), (0, 0, 0, 255)], ids=str)
def test_cmyk_is_shown_in_its_colours(ink):
    payload = saved(Image.new("CMYK", (16, 16), ink), "jpeg", quality=95)
    cyan, magenta, yellow, black = ink
    expected = [255 - max(each, black) for each in (cyan, magenta, yellow)]
    assert np.abs(decoded(payload, "jpeg", (16, 16, 3)) - expected).max() < 6


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}], ids=str)
@pytest.mark.parametrize("end", [b"", b"\xff"], ids=str)
def test_a_jpeg_without_its_end_marker_is_whole(options, end):
    whole = saved(Image.fromarray(UPRIGHT), "jpeg", **options)
    assert whole.endswith(b"\xff\xd9")
    np.testing.assert_array_equal(decoded(whole[:-2] + end, "jpeg"), decoded(whole, "jpeg"))


@functools.cache
def smooth(height, width):
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * x / width, 255 * y / height, 127 + 60 * np.sin(x / 9)], -1)
    return encode(pixels.astype(np.uint8), "jpeg")


@pytest.mark.parametrize("size", [(120, 160), (900, 1200)], ids=str)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.97])
def test_a_jpeg_without_its_last_rows_is_truncated(size, share):
    whole = smooth(*size)
    with pytest.raises(RejectedRecord, match="truncated"):
        decoded(whole[: int(len(whole) * share)], "jpeg")


def test_of_several_frames_the_first_is_the_picture():
    first, second = Image.fromarray(UPRIGHT), Image.fromarray(255 - UPRIGHT)
    animated = saved(first, "png", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decoded(animated, "png"), UPRIGHT)
    phone = saved(first, "mpo", save_all=True, append_images=[second])
    assert mean_difference(decoded(phone, "jpeg"), UPRIGHT) < 4


def test_a_deep_bomb_is_refused_before_it_is_decoded(monkeypatch):
    bomb = png(np.zeros((2400, 2400, 3), np.uint16))
    assert len(bomb) < 100_000
    monkeypatch.setattr(PngImageFile, "load", lambda _: pytest.fail("pixels were decoded"))
    with pytest.raises(RejectedRecord, match="too_many_pixels"):
        decoded(bomb, "png")


@pytest.mark.filterwarnings("ignore")  # as the decoder has it, but for pytest
@pytest.mark.parametrize("kind", ["deep", "palette", "turned", "unended"])
def test_no_damage_raises_anything_but_a_rejection(kind):
    """Flips and cuts at random positions, in files that take the less usual ways."""
    palette = Image.fromarray(UPRIGHT).quantize(4)
    whole = {
        "deep": png(np.full((8, 8, 3), 700, np.uint16), sbit=[10, 10, 10], key=[700, 700, 700], exif=oriented(6)),
        "palette": saved(palette, "png", transparency=b"\x00\x80", exif=oriented(3)),
        "turned": saved(Image.fromarray(UPRIGHT), "jpeg", exif=oriented(8)),
        "unended": saved(Image.fromarray(UPRIGHT), "jpeg")[:-2],
    }[kind]
    rng = np.random.default_rng(3)
    for _ in range(150):
        damaged = bytearray(whole)
        for at in rng.integers(8, len(whole), rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        cut = int(rng.integers(len(whole) * 3 // 4, len(whole) + 1))
        try:
            shown = decoded(bytes(damaged[:cut]), "png" if kind in {"deep", "palette"} else "jpeg")
        except RejectedRecord:
            continue
        assert shown.shape == UPRIGHT.shape
