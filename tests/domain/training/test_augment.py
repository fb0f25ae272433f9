"""Augmentation: what it may do to a sample, and that it depends on nothing but seed, epoch and id."""

import numpy as np
import pytest

from edged.domain.topology import Augment
from edged.domain.training.augment import augmented

RNG = np.random.default_rng(0)
IMAGES = RNG.random((200, 9, 7, 3), dtype=np.float32)
IDS = np.arange(1000, 1200)
ALL = Augment("both", shift=2, crop=0.7)


def view(x, augment, *, ids=IDS, seed=1, epoch=0):
    return augmented(x, ids, augment, seed=seed, epoch=epoch)


@pytest.mark.parametrize("augment", [Augment("horizontal"), Augment(shift=2), Augment(crop=0.5), ALL], ids=str)
@pytest.mark.parametrize("shape", [(9, 7, 3), (9, 1, 1), (12, 2)])
def test_shape_dtype_range_and_input_are_kept(augment, shape):
    x = RNG.random((50, *shape), dtype=np.float32)
    before = x.copy()
    y = view(x, augment, ids=np.arange(50))
    assert (y.shape, y.dtype) == (x.shape, np.float32)
    assert y.min() >= x.min()
    assert y.max() <= x.max() + 1e-6
    np.testing.assert_array_equal(x, before)


def test_the_same_seed_epoch_and_id_give_the_same_view_at_any_index_of_the_batch():
    y = view(IMAGES, ALL)
    np.testing.assert_array_equal(view(IMAGES, ALL), y)
    np.testing.assert_array_equal(view(IMAGES[::-1], ALL, ids=IDS[::-1]), y[::-1])
    np.testing.assert_array_equal(view(IMAGES[5:6], ALL, ids=IDS[5:6]), y[5:6])


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 1}, {"ids": IDS + 1}, {"ids": ~IDS}], ids=str)
def test_another_seed_epoch_or_id_gives_another_view(change):
    same = (view(IMAGES, ALL, **change) == view(IMAGES, ALL)).all(axis=(1, 2, 3))
    assert same.mean() < 0.05


@pytest.mark.parametrize(("flip", "axes"), [("horizontal", 2), ("vertical", 1), ("both", (1, 2))])
def test_about_half_are_mirrored_and_not_changed_otherwise(flip, axes):
    y = view(IMAGES, Augment(flip))
    mirrors = [IMAGES, np.flip(IMAGES, axes)] + ([np.flip(IMAGES, 1), np.flip(IMAGES, 2)] if flip == "both" else [])
    counts = [int((y == mirror).all(axis=(1, 2, 3)).sum()) for mirror in mirrors]
    assert sum(counts) == len(IMAGES)
    assert all(count == pytest.approx(len(IMAGES) / len(mirrors), rel=0.4) for count in counts)


def test_shifts_reach_as_far_as_allowed_and_no_further():
    x = np.zeros((500, 9, 9, 1), np.float32)
    x[:, 4, 4] = 1
    _, rows, columns, _ = np.nonzero(view(x, Augment(shift=2), ids=np.arange(500)))
    assert set(rows) == set(columns) == {2, 3, 4, 5, 6}
    assert len(set(zip(rows, columns, strict=True))) == 25


def test_pixels_from_outside_repeat_the_border():
    x = np.full((50, 5, 5, 1), 3.0, np.float32)
    np.testing.assert_array_equal(view(x, Augment(shift=3), ids=np.arange(50)), x)


def test_a_crop_is_a_window_of_the_allowed_size_stretched_to_the_whole():
    """A ramp stays a ramp; its slope is the window's share of the side."""
    ramp = np.broadcast_to(np.arange(21, dtype=np.float32)[:, None, None], (300, 21, 21, 1))
    y = view(ramp, Augment(crop=0.5), ids=np.arange(300))[:, :, 0, 0]
    slopes = np.diff(y, axis=1)
    np.testing.assert_allclose(slopes, np.broadcast_to(slopes[:, :1], slopes.shape), atol=1e-4)
    assert slopes.min() == pytest.approx(0.5, abs=0.02)
    assert slopes.max() == pytest.approx(1, abs=0.02)
    assert y.min() >= 0
    assert y.max() <= 20
    assert y[:, 0].std() > 1  # windows lie at different places


def test_a_series_is_mirrored_in_time_and_its_channels_stay_together():
    x = RNG.random((100, 12, 2), dtype=np.float32)
    y = view(x, Augment("horizontal"), ids=np.arange(100))
    is_same, is_mirrored = (y == x).all(axis=(1, 2)), (y == x[:, ::-1]).all(axis=(1, 2))
    assert (is_same | is_mirrored).all()
    assert is_same.any()
    assert is_mirrored.any()


def test_without_augmentation_the_input_is_returned():
    assert view(IMAGES, Augment()) is IMAGES
