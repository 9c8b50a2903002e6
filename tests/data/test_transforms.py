"""Training crops have exact shapes, keep labels on their pixels, and depend on nothing but the generator."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from pipeline.data.transforms.augment import augment
from pipeline.data.transforms.colour import rotate_hue
from pipeline.data.transforms.config import Augmentation
from pipeline.data.transforms.geometry import enlarged, rotated
from pipeline.data.transforms.mixing import copy_paste, cutmix
from pipeline.data.transforms.objects import objects

IGNORE = 255
FILL = (7, 200, 90)  # unlike any colour of `blocks`
COLOURS = np.array([[0, 0, 0], [250, 0, 0], [0, 0, 250], [250, 250, 250]], np.uint8)


def blocks(height: int, width: int, *, side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and a label map of random blocks of four classes, each class in its colour."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, (-(-height // side), -(-width // side)))
    labels = np.kron(coarse, np.ones((side, side), int))[:height, :width].astype(np.int32)
    return COLOURS[labels], labels


def draw(pixels: np.ndarray, labels: np.ndarray, *, seed: int = 0, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    return augment(
        pixels,
        labels,
        settings=Augmentation(**settings),
        ignore_index=IGNORE,
        fill=FILL,
        rng=np.random.default_rng(seed),
    )


def away_from_borders(labels: np.ndarray, reach: int) -> np.ndarray:
    """Return where all pixels up to a distance `reach` lie within the crop and have the same label."""
    padded = np.pad(labels, reach, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1))
    return (windows == labels[:, :, None, None]).all(axis=(2, 3))


@pytest.mark.parametrize("crop", [(1, 1), (16, 24), (33, 7)])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (8, 8), (16, 24), (64, 48), (2, 31)])
def test_crops_of_all_images_have_the_exact_shape(size: tuple[int, int], crop: tuple[int, int]) -> None:
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


def test_class_borders_lie_where_the_image_changes() -> None:
    """The two ways of resizing are not shifted by half a pixel: a step lies at the same column in both."""
    labels = np.zeros((40, 40), np.int32)
    labels[:, 20:] = 3
    for seed in range(20):
        pixels, cropped = draw(COLOURS[labels], labels, seed=seed, crop=(80, 80), scale=(0.7, 1.9), flip=0)
        inside = cropped != IGNORE
        bright = pixels[:, :, 0] >= 125
        assert ((bright != (cropped == 3)) & inside).any(axis=0).sum() <= 1  # the column of the step may differ


def test_padding_has_the_fill_colour_and_is_ignored() -> None:
    image = np.full((10, 20, 3), 100, np.uint8)
    for seed in range(10):
        pixels, labels = draw(image, np.ones((10, 20), np.int32), seed=seed, crop=(32, 48), scale=(1, 1))
        padded = labels == IGNORE
        assert (~padded).sum() == 10 * 20
        np.testing.assert_array_equal(pixels[padded], np.broadcast_to(FILL, (padded.sum(), 3)))
        np.testing.assert_array_equal(pixels[~padded], 100)
        rows, columns = np.flatnonzero((~padded).any(axis=1)), np.flatnonzero((~padded).any(axis=0))
        assert (np.ptp(rows), np.ptp(columns)) == (9, 19)  # with the number of pixels above, a solid rectangle


def test_a_small_image_may_lie_anywhere_in_the_crop() -> None:
    places = set()
    for seed in range(200):
        _, labels = draw(
            np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3), np.int32), seed=seed, crop=(5, 5), scale=(1, 1)
        )
        places.add(tuple(np.argwhere(labels == 0)[0].tolist()))
    assert places == {(y, x) for y in range(3) for x in range(3)}


def test_no_padding_if_the_image_covers_the_crop() -> None:
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
    assert corners == {(top, left) for top in range(3) for left in range(3)}  # including the first and the last


def test_flip_probability_zero_and_one_mirror_each_other() -> None:
    image, truth = blocks(50, 70, side=9)
    for seed in range(10):
        plain, flipped = (draw(image, truth, seed=seed, crop=(32, 40), flip=flip) for flip in (0, 1))
        np.testing.assert_array_equal(flipped[0], plain[0][:, ::-1])
        np.testing.assert_array_equal(flipped[1], plain[1][:, ::-1])


def test_flips_have_the_given_probability() -> None:
    truth = np.array([[0, 1]], np.int32)
    flips = 0
    for seed in range(400):
        _, labels = draw(COLOURS[truth], truth, seed=seed, crop=(1, 2), scale=(1, 1), flip=0.25)
        flips += labels.tolist() == [[1, 0]]
    assert 70 <= flips <= 130  # expected: 100, with a standard deviation of 8.7


def test_scales_are_uniform_in_their_logarithm() -> None:
    image, truth = np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.int32)
    sides = []
    for seed in range(1000):
        _, labels = draw(image, truth, seed=seed, crop=(80, 80), scale=(0.5, 2.0))
        sides.append(int((labels == 0).any(axis=0).sum()))
    assert min(sides) >= 20
    assert max(sides) <= 80
    assert min(sides) < 22
    assert max(sides) > 75
    assert 0.44 <= np.mean(np.array(sides) < 40) <= 0.54  # 0.33 if the scale itself were uniform


def test_crops_depend_only_on_the_generator() -> None:
    image, truth = blocks(50, 70, side=9)
    first, again, other = (draw(image, truth, seed=seed, crop=(32, 40)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any()


def test_the_arguments_are_not_modified() -> None:
    image, truth = blocks(20, 20, side=5)
    before = image.copy(), truth.copy()
    draw(image, truth, crop=(32, 32), flip=1)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(truth, before[1])


def test_labels_are_never_interpolated() -> None:
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
        {"rotate": 200},
        {"rotated": 5},
        {"blur_sigma": (2.0, 1.0)},
    ],
)
def test_invalid_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValidationError):
        Augmentation(**settings)


def test_a_rotation_by_90_degrees_agrees_with_numpy() -> None:
    pixels, labels = blocks(40, 40, side=10)
    rotated_pixels, rotated_labels = rotated(pixels, labels, 90.0, (40, 40), FILL, IGNORE)
    np.testing.assert_array_equal(rotated_labels, np.rot90(labels))
    np.testing.assert_array_equal(rotated_pixels, np.rot90(pixels))


@pytest.mark.parametrize("angle", [0.5, 10.0, 45.0, 90.0, 170.0])
def test_a_rotated_crop_has_no_padding(angle: float) -> None:
    """The enlarged area covers the rotated crop, except for interpolation at the border."""
    size = enlarged((30, 50), angle)
    pixels, labels = np.full((*size, 3), 99, np.uint8), np.ones(size, np.int32)
    out_pixels, out_labels = rotated(pixels, labels, angle, (30, 50), FILL, IGNORE)
    assert out_labels.shape == (30, 50)
    assert (out_labels[2:-2, 2:-2] == 1).all()
    assert (out_pixels[2:-2, 2:-2] == 99).all()


GEOMETRY = [{"rotate": 30}, {"elastic": 4}, {"translate": 9}, {"rotate": 180, "elastic": 2, "translate": 5}]


@pytest.mark.parametrize("settings", GEOMETRY)
def test_labels_stay_on_pixels_that_are_moved(settings: dict) -> None:
    checked = 0
    for seed in range(12):
        pixels, labels = draw(*blocks(90, 120, side=30, seed=seed), seed=seed, crop=(64, 80), scale=(1, 1), **settings)
        inner = away_from_borders(labels, 4) & (labels != IGNORE)
        wrong = (np.abs(pixels[inner].astype(int) - COLOURS[labels[inner]]) > 2).any(axis=1)
        assert wrong.mean() < 0.01
        assert (pixels[away_from_borders(labels, 2) & (labels == IGNORE)] == FILL).all()
        checked += int(inner.sum())
    assert checked > 5000


def test_a_translation_moves_by_whole_pixels() -> None:
    pixels, labels = blocks(50, 50, side=7)
    seen = set()
    for seed in range(40):
        moved, moved_labels = draw(pixels, labels, seed=seed, crop=(50, 50), scale=(1, 1), flip=0, translate=2)
        fits = [
            (y, x)
            for y in range(-2, 3)
            for x in range(-2, 3)
            if (moved[2 + y : 48 + y, 2 + x : 48 + x] == pixels[2:48, 2:48]).all()
            and (moved_labels[2 + y : 48 + y, 2 + x : 48 + x] == labels[2:48, 2:48]).all()
        ]
        assert len(fits) == 1
        seen |= set(fits)
    assert len(seen) > 15


def test_no_class_exceeds_the_largest_share_if_it_can_be_avoided() -> None:
    labels = np.zeros((200, 200), np.int32)
    labels[:, 60:] = 1

    def shares(max_class_share: float) -> list[float]:
        crops = [
            draw(COLOURS[labels], labels, seed=i, crop=(50, 50), scale=(1, 1), max_class_share=max_class_share)[1]
            for i in range(60)
        ]
        return [np.bincount(crop[crop != IGNORE]).max() / (crop != IGNORE).sum() for crop in crops]

    assert np.mean(np.array(shares(1.0)) > 0.75) > 0.6
    assert np.mean(np.array(shares(0.75)) > 0.75) < 0.2


@pytest.mark.parametrize("corner", [(0, 0), (0, 190), (190, 0), (190, 190), (90, 120)])
def test_class_aware_crops_hold_each_class_of_the_image_as_often(corner: tuple[int, int]) -> None:
    labels = np.zeros((200, 200), np.int32)
    labels[:20] = IGNORE
    y, x = corner
    labels[y : y + 10, x : x + 10] = 1

    def share_with_the_small_class(class_aware: float) -> float:
        crops = [
            draw(COLOURS[labels % 4], labels, seed=i, crop=(50, 50), scale=(0.8, 1.25), class_aware=class_aware)[1]
            for i in range(200)
        ]
        return float(np.mean([(crop == 1).any() for crop in crops]))

    assert share_with_the_small_class(0.0) < 0.3
    assert 0.4 < share_with_the_small_class(1.0) < 0.75  # half of the crops are placed around it


def test_the_pixels_around_which_class_aware_crops_lie_are_anywhere_in_them() -> None:
    labels = np.zeros((400, 400), np.int32)
    labels[200, 200] = 1
    places = [
        tuple(np.argwhere(crop == 1)[0])
        for crop in (
            draw(COLOURS[labels], labels, seed=i, crop=(8, 8), scale=(1, 1), class_aware=1)[1] for i in range(1000)
        )
        if (crop == 1).any()
    ]
    assert 400 < len(places) < 600
    assert len(set(places)) == 64


def test_class_aware_crops_of_an_image_without_labels_are_drawn_as_others() -> None:
    labels = np.full((60, 60), IGNORE, np.int32)
    pixels = COLOURS[labels % 4]
    assert (draw(pixels, labels, crop=(20, 20), class_aware=1)[1] == IGNORE).all()


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "gamma", "blur"])
def test_colours_change_and_labels_do_not(name: str) -> None:
    pixels, labels = blocks(40, 40, side=8)
    pixels = pixels // 2 + np.array([60, 20, 10], np.uint8)
    settings: dict[str, Any] = {"crop": (40, 40), "scale": (1, 1), "flip": 0}
    strength = {"hue": 90, "blur": 1, "gamma": 0.3}.get(name, 0.5)
    drawn = [draw(pixels, labels, seed=seed, **settings, **{name: strength}) for seed in range(3)]
    for _, unchanged in drawn:
        np.testing.assert_array_equal(unchanged, labels)
    assert sum((changed != pixels).any() for changed, _ in drawn) >= 2  # the narrowest blur changes nothing
    assert len({changed.tobytes() for changed, _ in drawn}) >= 2


def test_hues_rotate_on_the_colour_circle() -> None:
    """The tolerances allow for Pillow's HSV, which has 8 bits for each channel."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    full_circle = np.asarray(rotate_hue(Image.fromarray(pixels), 360.0))
    assert np.abs(full_circle.astype(int) - pixels).max() <= 8
    red = np.full((1, 1, 3), (250, 0, 0), np.uint8)
    np.testing.assert_allclose(np.asarray(rotate_hue(Image.fromarray(red), 120.0))[0, 0], (0, 250, 0), atol=6)


def test_gamma_brightens_as_often_as_it_darkens() -> None:
    """FRRN's distribution of gamma is symmetric."""
    grey = np.full((4, 4, 3), 128, np.uint8)
    settings: dict[str, Any] = {"crop": (4, 4), "scale": (1, 1), "gamma": 0.05}
    levels = [int(draw(grey, np.zeros((4, 4), np.int32), seed=seed, **settings)[0][0, 0, 0]) for seed in range(300)]
    assert abs(np.mean(np.array(levels) > 128) - 0.5) < 0.1  # with a standard deviation of 0.03
    assert min(levels) < 122
    assert max(levels) > 134


def test_cutmix_inserts_a_box_of_the_other_crop_with_its_labels() -> None:
    one = np.zeros((30, 40, 3), np.uint8), np.zeros((30, 40), np.int32)
    other = np.full((30, 40, 3), 9, np.uint8), np.ones((30, 40), np.int32)
    shares = []
    for seed in range(300):
        pixels, labels = cutmix(one, other, np.random.default_rng(seed))
        np.testing.assert_array_equal(pixels[..., 0] == 9, labels == 1)
        rows, columns = np.nonzero(labels)
        if len(rows):
            assert (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1) == len(rows)
        shares.append(labels.mean())
    assert 0.25 < np.mean(shares) < 0.45  # 0.5 if the border did not cut boxes off
    assert not one[1].any()


def test_copy_paste_pastes_whole_classes() -> None:
    rng = np.random.default_rng(0)
    one = np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 7, np.int32)
    labels = np.kron(np.array([[0, 1], [2, IGNORE]], np.int32), np.ones((4, 4), np.int32)).astype(np.int32)
    other = np.full((8, 8, 3), 9, np.uint8), labels
    for _ in range(20):
        pixels, mixed = copy_paste(one, other, classes=(), ignore_index=IGNORE, rng=rng)
        pasted = mixed != 7
        assert len(np.unique(mixed[pasted])) == 2  # half of three, rounded up
        assert IGNORE not in mixed
        np.testing.assert_array_equal(mixed[pasted], labels[pasted])
        np.testing.assert_array_equal(pixels[..., 0] == 9, pasted)
    _, only = copy_paste(one, other, classes=(2,), ignore_index=IGNORE, rng=rng)
    assert set(np.unique(only)) == {2, 7}
    _, none = copy_paste(one, other, classes=(5,), ignore_index=IGNORE, rng=rng)
    assert (none == 7).all()


def test_objects_are_cropped_with_their_surroundings_and_without_other_objects() -> None:
    """The image has two objects of one class, one of another, background, and an ignored row."""
    labels = np.zeros((100, 120), np.int32)
    labels[10:50, 20:40], labels[60:90, 70:110], labels[10:30, 90:110] = 1, 2, 1
    labels[0, :] = IGNORE
    assert sorted(objects(labels, outside=(0, IGNORE))) == [
        (1, (20, 10, 40, 50)),
        (1, (90, 10, 110, 30)),
        (2, (70, 60, 110, 90)),
    ]
    seen = set()
    for seed in range(20):
        settings: dict[str, Any] = {
            "crop": (100, 100),
            "scale": (1, 1),
            "flip": 0,
            "focus": "objects",
            "focus_size": 100,
        }
        _, crop = draw(COLOURS[labels % 4], labels, seed=seed, **settings)
        (label,) = set(np.unique(crop)) - {0, IGNORE}
        seen.add(int(label))
        assert (crop == label).mean() == pytest.approx(1 / 1.2**2, abs=0.05)  # the box is enlarged by 1.2
    assert seen == {1, 2}


def test_an_image_without_objects_is_used_whole() -> None:
    labels = np.zeros((30, 60), np.int32)
    settings: dict[str, Any] = {"crop": (50, 50), "scale": (1, 1), "focus": "objects", "focus_size": 50}
    pixels, crop = draw(COLOURS[labels], labels, **settings)
    assert not crop.any()
    assert not pixels.any()


def test_proposals_overlap_an_object() -> None:
    labels = np.zeros((120, 120), np.int32)
    labels[30:90, 40:100] = 1
    settings: dict[str, Any] = {"crop": (60, 60), "scale": (1, 1), "flip": 0, "focus": "proposals", "focus_size": 60}
    for seed in range(3):
        _, crop = draw(COLOURS[labels], labels, seed=seed, **settings)
        assert (crop == 1).mean() > 0.45
        again = draw(COLOURS[labels], labels, seed=seed, **settings)[1]
        np.testing.assert_array_equal(crop, again)
