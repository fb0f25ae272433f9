"""Which records are samples, and which numbers they hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.samples import codec, rules
from edged.domain.samples.rules import MAGIC
from edged.domain.samples.sample import MAX_BYTES, REASONS
from edged.domain.topology import Stream
from edged.errors import RejectedRecord

GREY = Stream("grey", (4, 3, 1), "uint8", ("cat", "hund", "猫"))
FLOATS = Stream("floats", (5,), "float32", ("low", "high"))
HUGE = Stream("huge", (1024, 1024, 1), "uint8", ("any",))
IMAGE = bytes(range(12))
SMALLEST = float(np.finfo(np.float32).smallest_normal)


def reason_of(key, value, stream=GREY, of_codec="raw"):
    with pytest.raises(RejectedRecord) as caught:
        codec.check_record(key, value, stream, of_codec)
    assert caught.value.reason in REASONS
    with pytest.raises(RejectedRecord) as on_device:
        rules.check_record(key, value, stream, of_codec)
    assert str(on_device.value) == str(caught.value)
    return caught.value.reason


def floats(*values):
    return np.array(values, "<f4").tobytes()


def test_a_key_is_the_label():
    assert codec.check_record(b"cat", IMAGE, GREY, "raw") == "cat"
    assert codec.check_record("猫".encode(), IMAGE, GREY, "raw") == "猫"


def test_a_record_without_a_key_is_unlabelled():
    assert codec.check_record(None, IMAGE, GREY, "raw") is None


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (b"Cat", "unknown_label"),
        (b"", "unknown_label"),
        (b"cat\x00", "unknown_label"),
        (b"\xff\xfe", "key_not_text"),
        (b"\xed\xa0\x80", "key_not_text"),
        (b"k" * 257, "key_too_long"),
        (b"k" * 10_000_000, "key_too_long"),
    ],
)
def test_a_key_that_is_no_label_is_rejected(key, reason):
    assert reason_of(key, IMAGE) == reason


@pytest.mark.parametrize("value", [IMAGE[:-1], IMAGE + b"\x00", b"\x00" * 5_000_000])
def test_raw_bytes_must_fill_the_shape_exactly(value):
    assert reason_of(b"cat", value) == "wrong_length"


@pytest.mark.parametrize("of_codec", ["raw", "jpeg", "png"])
def test_an_empty_payload_is_rejected(of_codec):
    assert reason_of(b"cat", b"", of_codec=of_codec) == "empty"


@pytest.mark.parametrize("of_codec", ["jpeg", "png"])
def test_a_compressed_payload_may_fill_a_pack_but_no_more(of_codec):
    largest = MAGIC[of_codec].ljust(MAX_BYTES, b"x")
    assert codec.check_record(b"cat", largest, GREY, of_codec) == "cat"
    assert reason_of(b"cat", largest + b"x", of_codec=of_codec) == "too_large"


@pytest.mark.parametrize("of_codec", ["jpeg", "png"])
def test_a_payload_without_its_codecs_magic_bytes_is_no_image(of_codec):
    assert reason_of(b"cat", b"junk", of_codec=of_codec) == "not_an_image"
    assert reason_of(b"cat", MAGIC[of_codec][1:], of_codec=of_codec) == "not_an_image"


def test_an_image_in_the_other_codec_is_called_by_its_name():
    with pytest.raises(RejectedRecord, match="is a png; the device's codec is jpeg"):
        codec.check_record(None, MAGIC["png"], GREY, "jpeg")


def test_a_raw_sample_larger_than_a_pack_is_rejected():
    assert reason_of(None, b"x" * 1024 * 1024, stream=HUGE) == "too_large"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, -2e19])
def test_floats_must_be_finite_and_so_must_their_squares(bad):
    assert codec.check_record(b"low", floats(0, -1, 2, 1e18, 1e-40), FLOATS, "raw") == "low"
    assert reason_of(b"low", floats(0, 1, bad, 3, 4), stream=FLOATS) == "not_finite"


@pytest.mark.parametrize("values", [(1, 2, 3, 4, 5), (1, 0, -2, 1013.25, 0), (0, 0, 0, 0, 0.5)])
def test_floats_in_network_byte_order_are_refused_by_what_they_look_like(values):
    payload = np.array(values, ">f4").tobytes()
    with pytest.raises(RejectedRecord) as caught:
        codec.check_record(b"low", payload, FLOATS, "raw")
    assert caught.value.reason == "denormal"
    assert caught.value.detail == "all values are below 1.2e-38: is it little-endian float32?"
    for codecs in (["raw", "raw"], ["raw", "png"]):
        with pytest.raises(RejectedRecord, match="denormal"):
            codec.fill(
                np.empty((2, *FLOATS.shape), np.float32),
                [payload, floats(1, 2, 3, 4, 5)],
                codecs,
                FLOATS,
                lambda *_: np.zeros(FLOATS.shape, np.uint8),
            )


@pytest.mark.parametrize("values", [(0, 0, 0, 0, -0.0), (1e-45, 0, 0, 0, SMALLEST), (0, 0, -SMALLEST, 0, 0)])
def test_zeros_and_single_denormals_are_samples(values):
    assert codec.check_record(b"low", floats(*values), FLOATS, "raw") == "low"


@pytest.mark.parametrize("codecs", [["raw", "raw"], ["raw", "png"]])
def test_single_denormals_reach_the_model_as_zeros(codecs):
    x = np.empty((2, *FLOATS.shape), np.float32)
    numbers = floats(1e-45, -1e-40, SMALLEST, 1, -SMALLEST)
    codec.fill(x, [numbers, numbers], codecs, FLOATS, lambda *_: np.zeros(FLOATS.shape, np.uint8))
    assert x[0].tolist() == [0, 0, SMALLEST, 1, -SMALLEST]


@given(
    st.binary(min_size=20, max_size=20)
    | st.lists(st.floats(width=32), min_size=5, max_size=5).map(lambda x: floats(*x))
)
def test_a_device_judges_numbers_as_the_edge_does(value):
    def judged(check):
        try:
            return check(None, value, FLOATS, "raw")
        except RejectedRecord as error:
            return str(error)

    assert judged(rules.check_record) == judged(codec.check_record)


@given(key=st.none() | st.binary(max_size=300), value=st.binary(max_size=40))
def test_any_bytes_are_a_sample_or_a_reason(key, value):
    for stream in (GREY, FLOATS):
        try:
            label = codec.check_record(key, value, stream, "raw")
        except RejectedRecord as error:
            assert error.reason in REASONS  # noqa: PT017 - either outcome is right
        else:
            assert label is None or label in stream.labels


def test_an_unknown_label_is_quoted_abbreviated():
    with pytest.raises(RejectedRecord, match=r'"Cat" is not one of the 3 of grey'):
        codec.check_record(b"Cat", IMAGE, GREY, "raw")
    with pytest.raises(RejectedRecord) as caught:
        codec.check_record(b"\n" * 256, IMAGE, GREY, "raw")
    assert len(caught.value.detail) < 150
    assert "\n" not in caught.value.detail


def test_raw_floats_are_little_endian():
    assert codec.decode_raw(b"\x00\x00\x80\x3f" * 5, FLOATS).tolist() == [1.0] * 5


def test_raw_pixels_take_the_streams_shape():
    assert codec.decode_raw(IMAGE, GREY).tolist() == np.arange(12).reshape(4, 3, 1).tolist()
    with pytest.raises(RejectedRecord, match="wrong_length"):
        codec.decode_raw(IMAGE[1:], GREY)


def test_uint8_is_normalised_to_one_and_floats_are_unchanged_but_for_denormal_ones():
    pixels = np.arange(256, dtype=np.uint8)
    x = codec.normalise(pixels)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, np.arange(256, dtype=np.float32) / np.float32(255))
    assert codec.normalise(np.array([-3.5, 300, 1e-39], np.float32)).tolist() == [-3.5, 300, 0]


def test_class_numbers_are_indices_in_the_list():
    assert codec.class_index(GREY) == {"cat": 0, "hund": 1, "猫": 2}


def never(payload, of_codec, shape):
    raise AssertionError("a raw payload needs no image decoder")


@pytest.mark.parametrize("stream", [GREY, FLOATS])
def test_raw_payloads_fill_a_batch_as_one_by_one(stream):
    rng = np.random.default_rng(0)
    samples = (rng.random((7, *stream.shape)) * 255).astype(codec.raw_dtype(stream))
    payloads = [sample.tobytes() for sample in samples]
    x = np.full((7, *stream.shape), np.nan, np.float32)
    codec.fill(x, payloads, ["raw"] * 7, stream, never)
    np.testing.assert_array_equal(x, [codec.normalise(codec.decode_raw(each, stream)) for each in payloads])


def test_a_batch_of_mixed_codecs_is_filled_in_order():
    decoded = np.full(GREY.shape, 255, np.uint8)
    x = np.empty((3, *GREY.shape), np.float32)
    codec.fill(x, [IMAGE, b"file", bytes(12)], ["raw", "png", "raw"], GREY, lambda *_: decoded)
    np.testing.assert_array_equal(x[0].ravel(), np.arange(12, dtype=np.float32) / np.float32(255))
    assert (x[1] == 1).all()
    assert (x[2] == 0).all()


@pytest.mark.parametrize("codecs", [["raw", "raw"], ["raw", "png"]])
def test_lengths_that_cancel_out_do_not_shift_the_batch(codecs):
    x = np.empty((2, *GREY.shape), np.float32)
    with pytest.raises(RejectedRecord, match="wrong_length"):
        codec.fill(x, [IMAGE[:-1], IMAGE + b"\x00"], codecs, GREY, lambda *_: np.zeros(GREY.shape, np.uint8))
