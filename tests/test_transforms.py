"""Training crops: exact shapes, labels that stay on their pixels, chance only from the generator."""

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.transforms import Augmentation, augment

IGNORE = 255
FILL = (7, 200, 90)  # unlike any colour of `blocks`
COLOURS = np.array([[0, 0, 0], [250, 0, 0], [0, 0, 250], [250, 250, 250]], np.uint8)


def blocks(height: int, width: int, *, side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random blocks of four classes, and a picture that shows each class in its colour."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, (-(-height // side), -(-width // side)))
    labels = np.kron(coarse, np.ones((side, side), int))[:height, :width].astype(np.int32)
    return COLOURS[labels], labels


def draw(pixels: np.ndarray, labels: np.ndarray, *, seed: int = 0, **settings) -> tuple[np.ndarray, np.ndarray]:
    return augment(
        pixels,
        labels,
        settings=Augmentation(**settings),
        ignore_index=IGNORE,
        fill=FILL,
        rng=np.random.default_rng(seed),
    )


def away_from_borders(labels: np.ndarray, reach: int) -> np.ndarray:
    """Pixels whose whole neighbourhood is shown and has their label."""
    padded = np.pad(labels, reach, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1))
    return (windows == labels[:, :, None, None]).all(axis=(2, 3))


@pytest.mark.parametrize("crop", [(1, 1), (16, 24), (33, 7)])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (8, 8), (16, 24), (64, 48), (2, 31)])
def test_crops_have_the_exact_shape_whatever_the_image(size: tuple[int, int], crop: tuple[int, int]) -> None:
    for seed in range(8):
        pixels, labels = draw(*blocks(*size, side=3, seed=seed), seed=seed, crop=crop, scale=(0.1, 4.0))
        assert pixels.shape == (*crop, 3)
        assert labels.shape == crop
        assert (pixels.dtype, labels.dtype) == (np.uint8, np.int32)
        assert pixels.flags.c_contiguous
        assert labels.flags.c_contiguous
        assert set(np.unique(labels)) <= {0, 1, 2, 3, IGNORE}


@pytest.mark.parametrize("size", [(60, 90), (200, 40)])
def test_labels_stay_on_their_pixels(size: tuple[int, int]) -> None:
    checked = 0
    for seed in range(30):
        pixels, labels = draw(*blocks(*size, side=20, seed=seed), seed=seed, crop=(48, 64), scale=(0.5, 2.0))
        inner = away_from_borders(labels, 3) & (labels != IGNORE)
        np.testing.assert_array_equal(pixels[inner], COLOURS[labels[inner]])
        checked += int(inner.sum())
    assert checked > 10_000


def test_class_borders_lie_where_the_picture_changes() -> None:
    """A step at a known column: no half-pixel shift between the two ways of resizing."""
    labels = np.zeros((40, 40), np.int32)
    labels[:, 20:] = 3
    for seed in range(20):
        pixels, cropped = draw(COLOURS[labels], labels, seed=seed, crop=(80, 80), scale=(0.7, 1.9), flip=0)
        shown = cropped != IGNORE
        bright = pixels[:, :, 0] >= 125
        assert ((bright != (cropped == 3)) & shown).any(axis=0).sum() <= 1  # at most the column on the step


def test_padding_is_fill_and_ignored() -> None:
    image = np.full((10, 20, 3), 100, np.uint8)
    for seed in range(10):
        pixels, labels = draw(image, np.ones((10, 20), np.int32), seed=seed, crop=(32, 48), scale=(1, 1))
        padded = labels == IGNORE
        assert (~padded).sum() == 10 * 20
        np.testing.assert_array_equal(pixels[padded], np.broadcast_to(FILL, (padded.sum(), 3)))
        np.testing.assert_array_equal(pixels[~padded], 100)
        rows, columns = np.flatnonzero((~padded).any(axis=1)), np.flatnonzero((~padded).any(axis=0))
        assert (np.ptp(rows), np.ptp(columns)) == (9, 19)  # one solid rectangle


def test_a_small_image_lands_anywhere_in_the_crop() -> None:
    places = set()
    for seed in range(200):
        _, labels = draw(
            np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3), np.int32), seed=seed, crop=(5, 5), scale=(1, 1)
        )
        places.add(tuple(np.argwhere(labels == 0)[0].tolist()))
    assert places == {(y, x) for y in range(3) for x in range(3)}


def test_no_padding_where_the_image_covers_the_crop() -> None:
    for seed in range(20):
        _, labels = draw(*blocks(64, 64, side=8), seed=seed, crop=(32, 32), scale=(0.5, 2.0))
        assert (labels != IGNORE).all()


def test_scale_one_without_flip_is_a_window_of_the_image() -> None:
    rng = np.random.default_rng(0)
    image, truth = rng.integers(0, 256, (30, 41, 3), dtype=np.uint8), np.arange(30 * 41, dtype=np.int32).reshape(30, 41)
    corners = set()
    for seed in range(100):
        pixels, labels = draw(image, truth, seed=seed, crop=(28, 39), scale=(1, 1), flip=0)
        top, left = divmod(int(labels[0, 0]), 41)
        np.testing.assert_array_equal(labels, truth[top : top + 28, left : left + 39])
        np.testing.assert_array_equal(pixels, image[top : top + 28, left : left + 39])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(3) for left in range(3)}  # the first and the last included


def test_flip_probability_zero_and_one_mirror_each_other() -> None:
    image, truth = blocks(50, 70, side=9)
    for seed in range(10):
        plain, flipped = (draw(image, truth, seed=seed, crop=(32, 40), flip=flip) for flip in (0, 1))
        np.testing.assert_array_equal(flipped[0], plain[0][:, ::-1])
        np.testing.assert_array_equal(flipped[1], plain[1][:, ::-1])


def test_flip_happens_as_often_as_told() -> None:
    truth = np.array([[0, 1]], np.int32)
    flips = 0
    for seed in range(400):
        _, labels = draw(COLOURS[truth], truth, seed=seed, crop=(1, 2), scale=(1, 1), flip=0.25)
        flips += labels.tolist() == [[1, 0]]
    assert 70 <= flips <= 130  # 100 ± 3.5 standard deviations


def test_scales_are_spread_over_the_range_evenly_in_the_logarithm() -> None:
    image, truth = np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.int32)
    sides = []
    for seed in range(1000):
        _, labels = draw(image, truth, seed=seed, crop=(80, 80), scale=(0.5, 2.0))
        sides.append(int((labels == 0).any(axis=0).sum()))
    assert min(sides) >= 20
    assert max(sides) <= 80
    assert min(sides) < 22
    assert max(sides) > 75
    assert 0.44 <= np.mean(np.array(sides) < 40) <= 0.54  # an even spread of the scale itself would give 0.33


def test_the_generator_decides_everything() -> None:
    image, truth = blocks(50, 70, side=9)
    first, again, other = (draw(image, truth, seed=seed, crop=(32, 40)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any()


def test_the_arguments_are_left_alone() -> None:
    image, truth = blocks(20, 20, side=5)
    before = image.copy(), truth.copy()
    draw(image, truth, crop=(32, 32), flip=1)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(truth, before[1])


def test_labels_are_never_mixed() -> None:
    truth = np.random.default_rng(0).choice([0, 100, 999, 70_000], (30, 30)).astype(np.int32)
    for seed in range(10):
        _, labels = draw(np.zeros((30, 30, 3), np.uint8), truth, seed=seed, crop=(80, 80))
        assert set(np.unique(labels)) == {0, 100, 999, 70_000, IGNORE}


@pytest.mark.parametrize(
    "settings",
    [
        {"crop": (0, 5)},
        {"crop": (5,)},
        {"scale": (2.0, 0.5)},
        {"scale": (0, 1)},
        {"flip": 1.5},
        {"flip": -0.1},
        {"rotate": 5},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(ValidationError):
        Augmentation(**settings)
