"""Frames of a device's buffer: what is whole comes back, whatever happened to the rest."""

from hypothesis import given
from hypothesis import strategies as st

from edged.domain.device.frames import MAX_FRAME_BYTES, encode, num_bytes, salt_of, scan
from edged.domain.device.sample import Kept

SALT = salt_of("a")
times = st.integers(-(1 << 63), (1 << 63) - 1)
kept = st.builds(
    Kept,
    number=st.integers(0, (1 << 64) - 1),
    sampled_ms=times,
    written_ms=times,
    steady_ms=times,
    label=st.none() | st.binary(max_size=256),
    payload=st.binary(max_size=50),
)


def numbered(*numbers, payload=b"pixels"):
    return [Kept(number, 1, 2, 3, b"boot", payload) for number in numbers]


def written(samples, salt=SALT):
    return b"".join(encode(each, salt) for each in samples)


def found(data, salt=SALT):
    return [each for each, _end in scan(data, salt, is_all=True).frames]


@given(st.lists(kept, max_size=5))
def test_what_is_written_is_read(samples):
    data = written(samples)
    assert len(data) == sum(num_bytes(each.label, each.payload) for each in samples)
    assert found(data) == samples
    assert scan(data, SALT, is_all=True).end == len(data)


@given(st.lists(kept, min_size=1, max_size=5), st.data())
def test_a_file_that_was_torn_gives_all_whole_frames_and_where_they_end(samples, data):
    whole = written(samples)
    cut = data.draw(st.integers(0, len(whole)))
    ends = [len(written(samples[:count])) for count in range(len(samples) + 1)]
    num_whole = sum(end <= cut for end in ends) - 1
    scanned = scan(whole[:cut], SALT, is_all=True)
    assert [each for each, _ in scanned.frames] == samples[:num_whole]
    assert scanned.end == ends[num_whole]


@given(st.lists(kept, min_size=1, max_size=5), st.binary(min_size=1, max_size=30), st.data())
def test_what_is_damaged_in_the_middle_costs_no_other_frame(samples, junk, data):
    frames = [encode(each, SALT) for each in samples]
    hit = data.draw(st.integers(0, len(frames) - 1))
    at = data.draw(st.integers(0, len(frames[hit]) - 1))
    damaged = (frames[hit][:at] + junk + frames[hit][at + len(junk) :])[: len(frames[hit])]
    got = found(b"".join([*frames[:hit], damaged, *frames[hit + 1 :]]))
    if damaged == frames[hit]:
        assert got == samples
    else:
        assert got == [*samples[:hit], *samples[hit + 1 :]]


@given(st.binary(max_size=300))
def test_no_bytes_raise(data):
    assert scan(data, SALT, is_all=True).consumed == len(data)
    assert scan(data, SALT, is_all=False).consumed <= len(data)


@given(st.lists(kept, max_size=6), st.binary(max_size=20), st.integers(0, 400))
def test_reading_piece_by_piece_finds_what_reading_at_once_does(samples, junk, cut):
    data = junk + written(samples)
    first = scan(data[:cut], SALT, is_all=False)
    rest = scan(data[first.consumed :], SALT, is_all=True)
    assert [each for each, _ in first.frames + rest.frames] == samples


def test_a_frame_inside_a_payload_is_a_payload():
    inner = written(numbered(7), salt=salt_of("another"))
    outer = bytearray(written(numbered(1, payload=inner)))
    outer[0] ^= 1
    assert found(bytes(outer)) == []


def test_the_largest_sample_fits_into_the_largest_frame():
    largest = Kept(1, 1, 1, 1, b"l" * 256, bytes(768 * 1024))
    data = encode(largest, SALT)
    assert len(data) == MAX_FRAME_BYTES
    assert found(data) == [largest]
