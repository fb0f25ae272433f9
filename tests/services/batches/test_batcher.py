"""Mini-batches."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edged.domain.topology import Stream
from edged.errors import RejectedRecord
from edged.services.batches.batcher import Batcher, Encoded

STREAM = Stream("toy", (2, 2, 1), "uint8", ("a", "b"))


class Brightness:
    """Images of one byte; 0 is a damaged one."""

    def decode(self, payload, codec, shape):
        if payload == b"\0":
            raise RejectedRecord("truncated")
        return np.full(shape, payload[0], np.uint8)


def image(value: int, label: str | None = "a") -> Encoded:
    return Encoded(bytes([value]), "jpeg", label, id=value)


def test_a_bad_image_leaves_no_gap():
    batcher = Batcher(STREAM, 4, Brightness())
    batcher.add([image(1), image(0), image(3, "b")])
    batcher.add([Encoded(bytes(4), "raw", "b", id=9)])
    batch = batcher.take()
    assert batch.ids.tolist() == [1, 3, 9]
    assert batch.y.tolist() == [0, 1, 1]
    np.testing.assert_allclose(batch.x[:, 0, 0, 0], [1 / 255, 3 / 255, 0])
    assert batcher.num_undecodable == 1


def test_all_samples_are_used_where_labels_are_not_needed():
    batcher = Batcher(STREAM, 4, Brightness(), needs_labels=False)
    batcher.add([image(1, "b"), image(2, None), image(3, "unheard of")])
    assert batcher.take().y.tolist() == [1, -1, -1]
    assert batcher.num_unlabelled == 0


def test_only_the_raw_payload_of_a_wrong_length_is_left_out():
    batcher = Batcher(STREAM, 4, Brightness())
    batcher.add([Encoded(bytes(4), "raw", "a", 1), Encoded(bytes(3), "raw", "a", 2), Encoded(bytes(4), "raw", "a", 3)])
    assert batcher.take().ids.tolist() == [1, 3]


@pytest.mark.parametrize("label", [None, "no class of the stream"])
def test_samples_without_a_class_are_left_out_and_counted(label):
    batcher = Batcher(STREAM, 4, Brightness())
    batcher.add([image(1, label), image(2), Encoded(None, "", None)])
    assert batcher.take().ids.tolist() == [2]
    assert (batcher.num_unlabelled, batcher.num_undecodable) == (1, 0)


def test_the_batch_is_the_same_with_threads():
    images = [image(value % 256) for value in range(100)]
    alone, together = Batcher(STREAM, 100, Brightness()), None
    with ThreadPoolExecutor(3) as executor:
        together = Batcher(STREAM, 100, Brightness(), executor)
        together.add(images)
    alone.add(images)
    a, b = alone.take(), together.take()
    assert len(a) == 99
    assert a.x.tobytes() == b.x.tobytes()
    assert a.ids.tolist() == b.ids.tolist()


def test_images_are_decoded_only_on_the_executors_threads():
    names = set()

    class Spy(Brightness):
        def decode(self, payload, codec, shape):
            names.add(threading.current_thread().name)
            return super().decode(payload, codec, shape)

    with ThreadPoolExecutor(2, thread_name_prefix="train") as executor:
        Batcher(STREAM, 100, Spy(), executor).add([image(value) for value in range(1, 101)])
    assert names
    assert all(name.startswith("train") for name in names)


def test_what_is_decoded_is_seen_before_the_batch_is_full():
    seen = []

    class Spy(Brightness):
        def decode(self, payload, codec, shape):
            seen.append(batcher.num_decoded)
            return super().decode(payload, codec, shape)

    batcher = Batcher(STREAM, 100, Spy())
    batcher.add([image(value) for value in range(1, 101)])
    assert len(set(seen)) > 2
    assert batcher.num_decoded == 100


def test_a_batch_stays_valid_while_the_next_one_is_filled():
    batcher = Batcher(STREAM, 1, Brightness())
    batcher.add([image(1)])
    first = batcher.take()
    batcher.add([image(2)])
    second = batcher.take()
    assert (first.ids.tolist(), second.ids.tolist()) == ([1], [2])
    assert batcher.num_free == 1


def test_a_batch_stays_valid_while_what_comes_after_it_is_dropped_and_filled_again():
    batcher = Batcher(STREAM, 2, Brightness())
    batcher.add([image(1)])
    first = batcher.take()
    batcher.add([image(2)])
    batcher.drop()
    batcher.add([image(3)])
    assert (first.ids.tolist(), batcher.take().ids.tolist()) == ([1], [3])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2e18])
def test_a_sample_whose_numbers_are_not_finite_is_left_out_and_named(bad):
    floats = Stream("floats", (2,), "float32", ("a", "b"))
    batcher = Batcher(floats, 4, Brightness())

    batcher.add([Encoded(np.array([1, x], "<f4").tobytes(), "raw", "a", i) for i, x in enumerate([0, bad, 1e18, 3])])

    batch = batcher.take()
    assert batch.ids.tolist() == [0, 2, 3]
    assert np.isfinite(batch.x).all()
    assert batcher.take_unusable() == [(1, "not_finite", "")]
    assert batcher.take_unusable() == []
    assert (batcher.num_not_finite, batcher.num_undecodable) == (1, 0)


def test_a_sample_of_nothing_but_denormals_is_left_out_and_single_ones_are_trained_on_as_zeros():
    floats = Stream("floats", (2,), "float32", ("a", "b"))
    batcher = Batcher(floats, 4, Brightness())

    batcher.add([Encoded(np.array([1e-40, x], "<f4").tobytes(), "raw", "a", i) for i, x in enumerate([3, 0, 1e-39, 4])])

    assert batcher.take().x.tolist() == [[0, 3], [0, 4]]
    assert [(each.id, each.reason) for each in batcher.take_unusable()] == [(1, "denormal"), (2, "denormal")]


def test_what_is_left_out_comes_with_its_reason():
    batcher = Batcher(STREAM, 4, Brightness())
    batcher.add([image(1), image(0), Encoded(bytes(3), "raw", "a", 7), image(2, None)])
    assert [(each.id, each.reason) for each in batcher.take_unusable()] == [(0, "truncated"), (7, "wrong_length")]
