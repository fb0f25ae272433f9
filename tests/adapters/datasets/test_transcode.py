"""Items of any data set as what a device of any codec sends."""

import io

import numpy as np
import pytest
from PIL import Image

from edged.adapters.datasets.transcode import ArchiveForm, Transcoder
from edged.adapters.images import PillowDecoder, encode
from edged.domain.samples.codec import check_record, decode_raw
from edged.domain.topology import Device, Stream
from edged.errors import FormatError, RejectedRecord
from edged.ports import Item

PIXELS = np.arange(8 * 8, dtype=np.uint8).reshape(8, 8, 1) * 4
DECODER = PillowDecoder()


class OneItem:
    """A data set of one item."""

    name, labels, splits, left_out, label_place = "one", (), ("all",), (), "the item"

    def __init__(self, item, shape=None, dtype="uint8"):
        self.item, self.shape, self.dtype = item, shape, dtype

    def count(self, split):
        return 1

    def sample(self, split, index):
        return self.item

    def label(self, split, index):
        return self.item.label

    def item_name(self, split, index):
        return "it"


def raw(array):
    return OneItem(Item(None, "raw", array.tobytes()), array.shape, array.dtype.name)


def image(pixels, codec):
    return OneItem(Item(None, codec, encode(pixels, codec)))


def sent(dataset, codec="raw", shape=(8, 8, 1), dtype="uint8"):
    stream = Stream("tiles", shape, dtype, ())
    payload = Transcoder(dataset, Device("cam", "pi", "tiles", codec), stream, DECODER).payload(dataset.item)
    check_record(None, payload, stream, codec)
    return payload


def pixels_sent(dataset, codec="raw", shape=(8, 8, 1)):
    payload = sent(dataset, codec, shape)
    if codec == "raw":
        return decode_raw(payload, Stream("tiles", shape, "uint8", ()))
    return DECODER.decode(payload, codec, shape)


def test_raw_samples_and_images_in_the_devices_codec_are_passed_through():
    assert sent(raw(PIXELS)) == PIXELS.tobytes()
    for codec in ("jpeg", "png"):
        dataset = image(PIXELS, codec)
        assert sent(dataset, codec) == dataset.item.payload


def test_an_image_in_the_devices_codec_keeps_its_size_for_the_edge_to_scale():
    dataset = image(PIXELS, "jpeg")
    assert sent(dataset, "jpeg", shape=(4, 4, 1)) == dataset.item.payload


@pytest.mark.parametrize("codec", ["raw", "png"])
def test_a_lossless_codec_keeps_the_pixels(codec):
    for dataset in (raw(PIXELS), image(PIXELS, "png")):
        np.testing.assert_array_equal(pixels_sent(dataset, codec), PIXELS)


def test_raw_samples_become_jpegs_that_look_the_same():
    assert np.abs(pixels_sent(raw(PIXELS), "jpeg").astype(int) - PIXELS).max() < 30


def test_images_are_scaled_and_coloured_to_a_raw_devices_stream():
    for dataset in (raw(PIXELS), image(PIXELS, "jpeg")):
        small = pixels_sent(dataset, shape=(4, 4, 3))
        assert np.abs(small.mean(axis=2) - PIXELS.reshape(4, 2, 4, 2).mean(axis=(1, 3))).max() < 20


def test_samples_of_the_same_size_are_only_reshaped():
    flat = np.arange(64, dtype=np.uint8)
    assert sent(raw(flat)) == flat.tobytes()


def test_bytes_become_floats_from_0_to_1_for_a_float_stream():
    values = np.frombuffer(sent(raw(PIXELS), dtype="float32"), "<f4")
    np.testing.assert_allclose(values, PIXELS.ravel() / 255, rtol=1e-6)


def test_whole_floats_become_bytes_and_others_are_refused():
    whole = PIXELS.astype(np.float32)
    assert sent(raw(whole)) == PIXELS.tobytes()
    for number in (0.5, 256.0, -1.0):
        with pytest.raises(FormatError, match="whole numbers from 0 to 255"):
            sent(raw(np.full_like(whole, number)))


def test_an_image_too_large_for_a_message_is_scaled_down():
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 1), np.uint8)
    dataset = image(noise, "png")
    assert len(dataset.item.payload) > 900_000
    assert len(sent(dataset, "png")) < 1000


@pytest.mark.parametrize(
    "array", [np.zeros((5,), np.uint8), np.zeros((9, 9), np.float32), np.zeros((2, 2, 2), np.uint8)]
)
def test_samples_that_can_never_fit_are_refused_before_the_first_is_sent(array):
    dataset = raw(array)
    stream = Stream("tiles", (8, 8, 1), "uint8", ())
    with pytest.raises(FormatError, match="the stream tiles wants 8×8×1 uint8"):
        Transcoder(dataset, Device("cam", "pi", "tiles"), stream, DECODER)


def test_images_are_no_samples_of_a_stream_of_another_kind():
    for shape in ((64,), (8, 8, 2), (4, 4, 4, 1)):
        with pytest.raises(FormatError, match="one holds images, and samples of the stream tiles are"):
            Transcoder(image(PIXELS, "png"), Device("cam", "pi", "tiles"), Stream("tiles", shape, "uint8", ()), DECODER)


@pytest.mark.parametrize("codec", ["jpeg", "png"])
def test_an_image_that_no_edge_can_decode_is_not_passed_through(codec):
    item = Item(None, codec, encode(PIXELS.astype(np.uint8), codec)[:-20])
    with pytest.raises(RejectedRecord, match="truncated"):
        sent(OneItem(item), codec)
    with pytest.raises(RejectedRecord, match="truncated"):
        ArchiveForm(Stream("tiles", (8, 8, 1), "uint8", ()), DECODER)(item)


@pytest.mark.parametrize(("number", "reason"), [(1e30, "not_finite"), (1e-40, "denormal")])
def test_numbers_that_no_edge_takes_are_not_passed_through(number, reason):
    dataset = raw(np.full((8, 8, 1), number, np.float32))
    stream = Stream("readings", (8, 8, 1), "float32", ())
    transcoder = Transcoder(dataset, Device("meter", "pi", "readings", "raw"), stream, DECODER)

    with pytest.raises(RejectedRecord, match=reason):
        transcoder.payload(dataset.item)


def archived(item, shape=(8, 8, 1)):
    return ArchiveForm(Stream("tiles", shape, "uint8", ()), DECODER)(item)


def test_the_archive_keeps_raw_samples_jpegs_and_pngs_as_they_are():
    for item in (Item("a", "raw", b"1234"), *(image(PIXELS, codec).item for codec in ("jpeg", "png"))):
        assert archived(item) is item


@pytest.mark.parametrize("shape", [(4, 4, 1), (4, 4, 3), (4, 4)])
def test_other_formats_and_large_images_become_pngs_of_the_streams_shape(shape):
    webp = io.BytesIO()
    Image.fromarray(PIXELS[:, :, 0]).save(webp, "webp", lossless=True)
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 1), np.uint8)
    for item in (Item("a", "webp", webp.getvalue()), Item("a", "png", encode(noise, "png"))):
        kept = archived(item, shape)
        assert (kept.label, kept.codec) == ("a", "png")
        np.testing.assert_array_equal(
            DECODER.decode(kept.payload, "png", shape), DECODER.decode(item.payload, item.codec, shape)
        )
