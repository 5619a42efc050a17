"""Augmentation against plain loops over samples, and the random numbers it draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydl.data import Cutout, RandomCrop, RandomFlip, SampleRandom

image_shapes = st.tuples(*(st.integers(1, n) for n in (5, 7, 6, 3)))


def images(shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, shape).astype(np.uint8)


def draws(count, seed=0, epoch=0) -> SampleRandom:
    return SampleRandom(seed, epoch, np.arange(count))


@given(shape=image_shapes, padding=st.integers(0, 3), fill=st.sampled_from([0, 9]))
@settings(max_examples=25, deadline=None)
def test_random_crop_is_a_shifted_window_of_the_padded_image(shape, padding, fill):
    x = images(shape)
    b, h, w, c = shape
    random = draws(b)
    top, left = (random.integers(0, 2 * padding + 1) for _ in range(2))
    got = RandomCrop(padding, fill)(x, draws(b))
    assert got.dtype == np.uint8 and got.flags.c_contiguous
    for i in range(b):
        padded = np.full((h + 2 * padding, w + 2 * padding, c), fill, np.uint8)
        padded[padding : padding + h, padding : padding + w] = x[i]
        np.testing.assert_array_equal(got[i], padded[top[i] : top[i] + h, left[i] : left[i] + w])


def test_random_crop_reaches_every_shift_about_equally():
    x = np.zeros((9000, 3, 3, 1), np.uint8)
    x[:, 1, 1] = 1
    got = RandomCrop(1)(x, draws(len(x)))
    counts = got.sum(axis=0)[..., 0]  # where the pixel of the middle went
    assert counts.sum() == 9000 and counts.min() > 850 and counts.max() < 1150


@given(shape=image_shapes, seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_random_flip_mirrors_or_leaves(shape, seed):
    x = images(shape)
    before = x.copy()
    flip = draws(len(x), seed).uniform() < 0.5
    got = RandomFlip()(x, draws(len(x), seed))
    for i in range(len(x)):
        np.testing.assert_array_equal(got[i], x[i][:, ::-1] if flip[i] else x[i])
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(RandomFlip(0)(x, draws(len(x))), x)
    np.testing.assert_array_equal(RandomFlip(1)(x, draws(len(x))), x[:, :, ::-1])


@given(shape=image_shapes, size=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_cutout_overwrites_a_square_around_a_pixel(shape, size, seed):
    x = images(shape)
    b, h, w, _ = shape
    random = draws(b, seed)
    rows, columns = random.integers(0, h), random.integers(0, w)
    got = Cutout(size)(x, draws(b, seed))
    assert got.dtype == x.dtype
    for i in range(b):
        expected = x[i].copy()
        top, left = rows[i] - size // 2, columns[i] - size // 2
        expected[max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)] = 0
        np.testing.assert_array_equal(got[i], expected)


def test_cutout_fill_and_probability():
    x = images((400, 5, 5, 3))
    got = Cutout(1, fill=[10, 20, 30], probability=0.25)(x, draws(400))
    changed = (got != x).any(axis=(1, 2, 3))
    assert 70 < changed.sum() < 130
    pixels = got[changed][(got[changed] != x[changed]).any(axis=-1)]
    assert (pixels == [10, 20, 30]).all()


@pytest.mark.parametrize("augment", [RandomCrop(2, fill=[1, 2, 3]), RandomFlip(0.3), Cutout(3)])
def test_one_image_is_no_batch(augment):
    x = images((6, 8, 8, 3))
    with pytest.raises(ValueError, match=r"takes images \(N, H, W, C\), got an array of shape"):
        augment(x[0], draws(8))


def test_bad_arguments():
    for make, message in (
        (lambda: RandomCrop(-1), "padding must be"),
        (lambda: RandomFlip(1.5), r"probability must lie in \[0, 1\]"),
        (lambda: RandomFlip("often"), "got 'often'"),
        (lambda: Cutout(0), "size must be"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_random_numbers_belong_to_the_sample_not_to_the_batch():
    indices = np.array([5, 0, 123456, 3])
    together = SampleRandom(1, 2, indices)
    alone = [SampleRandom(1, 2, np.array([k])) for k in indices]
    for _ in range(3):
        np.testing.assert_array_equal(
            together.uniform(), np.concatenate([one.uniform() for one in alone])
        )


def test_random_numbers_are_uniform_and_independent():
    """Neighboring samples, draws, epochs and seeds must not resemble one another."""
    n = 20_000
    streams = [
        draw.uniform()
        for draw in (
            draws(n),
            draws(n, seed=1),
            draws(n, epoch=1),
            SampleRandom(0, 0, np.arange(n) + n),
        )
    ]
    random = draws(n)
    random.uniform()
    streams += [random.uniform(), random.uniform()]
    for numbers in streams:
        assert numbers.min() >= 0 and numbers.max() < 1
        counts, _ = np.histogram(numbers, 20, (0, 1))
        chi_square = ((counts - n / 20) ** 2 / (n / 20)).sum()
        assert chi_square < 50.8  # 19 degrees of freedom: exceeded once in 10,000
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 4 / np.sqrt(n)
    correlations = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlations).max() < 4 / np.sqrt(n)


def test_integers_cover_their_range():
    values, counts = np.unique(draws(6000).integers(-1, 2), return_counts=True)
    assert values.tolist() == [-1, 0, 1] and counts.min() > 1800
