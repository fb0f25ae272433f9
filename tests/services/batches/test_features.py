"""Features that are computed once, and the batches made of them."""

import numpy as np
import pytest

from edged.domain.topology import Stream
from edged.errors import RejectedRecord
from edged.services.batches.batcher import Batcher, Encoded
from edged.services.batches.features import FeatureCache

STREAM = Stream("toy", (2, 2, 1), "uint8", ("a", "b"))
ROW_BYTES = 3 * 4 + 200


class Sums:
    """Three features per sample; counts the samples computed."""

    def __init__(self):
        self.num_computed = self.most_at_once = 0

    def features(self, x):
        self.num_computed += len(x)
        self.most_at_once = max(self.most_at_once, len(x))
        sums = x.sum(axis=(1, 2, 3))
        return np.stack([sums, 2 * sums, -sums], axis=1).astype(np.float32)


class NoImages:
    def decode(self, payload, codec, shape):
        raise RejectedRecord("not_an_image")


@pytest.fixture
def sums():
    return Sums()


def batcher(sums, max_bytes, size=8):
    return Batcher(STREAM, size, NoImages(), features=FeatureCache(sums, STREAM.shape, (3,), max_bytes))


def samples(*values, codec="raw"):
    return [Encoded(bytes([value] * 4), codec, "a", id=value) for value in values]


def expected(*values):
    return [[pytest.approx(4 * value * factor / 255) for factor in (1, 2, -1)] for value in values]


def test_a_known_sample_is_not_computed_again_whatever_its_id(sums):
    batches = batcher(sums, 1 << 20)
    batches.add(samples(1, 2, 3))
    assert batches.take().x.tolist() == expected(1, 2, 3)
    batches.add([*samples(3), Encoded(bytes([2] * 4), "raw", "b", id=77), *samples(4)])
    batch = batches.take()
    assert batch.x.tolist() == expected(3, 2, 4)
    assert (batch.y.tolist(), batch.ids.tolist()) == ([0, 1, 0], [3, 77, 4])
    assert sums.num_computed == 4


def test_the_pixels_of_a_large_batch_are_never_in_memory_together(sums):
    batches = batcher(sums, 1 << 20, 200)
    batches.add(samples(*range(1, 201)))
    assert batches.take().x.tolist() == expected(*range(1, 201))
    assert (sums.num_computed, sums.most_at_once) == (200, 64)


def test_a_full_cache_keeps_what_it_has_and_computes_the_rest_each_time(sums):
    batches = batcher(sums, 2 * ROW_BYTES + 5)
    for _ in range(3):
        batches.add(samples(1, 2, 3, 4))
        assert batches.take().x.tolist() == expected(1, 2, 3, 4)
    assert sums.num_computed == 4 + 2 + 2


def test_features_are_right_without_any_cache(sums):
    batches = batcher(sums, 0)
    batches.add(samples(5, 5))
    assert batches.take().x.tolist() == expected(5, 5)


def test_undecodable_samples_are_left_out_and_counted(sums):
    batches = batcher(sums, 1 << 20)
    batches.add([*samples(1), *samples(9, codec="jpeg"), *samples(2)])
    assert batches.take().x.tolist() == expected(1, 2)
    assert batches.num_undecodable == 1


def test_a_sample_of_which_the_backbone_makes_no_finite_features_is_left_out(sums, monkeypatch):
    batches, features = batcher(sums, 1 << 20), sums.features
    monkeypatch.setattr(sums, "features", lambda pixels: features(pixels) / (pixels.sum(axis=(1, 2, 3)) > 0)[:, None])

    with np.errstate(all="ignore"):
        batches.add(samples(1, 0, 2))

    assert batches.take().x.tolist() == expected(1, 2)
    assert [each.reason for each in batches.take_unusable()] == ["not_finite"]
