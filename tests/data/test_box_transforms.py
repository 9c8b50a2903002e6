"""Boxes and proposals move with the picture: after any change they enclose what they enclosed before."""

import numpy as np
import pytest

from pipeline.data import images
from pipeline.data.transforms.box_config import BoxAugmentation
from pipeline.data.transforms.boxes import BoxedImage, augment_boxes

FILL = (124, 116, 104)


def picture() -> BoxedImage:
    """Return a dark image with a red and a blue rectangle; the proposals are the boxes in another order."""
    pixels = np.full((120, 160, 3), 20, np.uint8)
    boxes = np.array([[10, 20, 60, 70], [90, 40, 150, 110]], np.float32)
    for (left, top, right, bottom), colour in zip(boxes.astype(int), ((250, 0, 0), (0, 0, 250)), strict=True):
        pixels[top:bottom, left:right] = colour
    return BoxedImage(pixels, boxes, np.array([0, 1]), boxes[::-1].copy())


def extent(pixels: np.ndarray, channel: int) -> list[int]:
    """Return the box of the pixels of a rectangle."""
    others = [c for c in range(3) if c != channel]
    rows, columns = np.nonzero((pixels[..., channel] > 100) & (pixels[..., others].max(axis=-1) < 80))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    "settings",
    [
        BoxAugmentation(flip=1),
        BoxAugmentation(jitter=0.2, exposure=1.5, saturation=1.5),
        BoxAugmentation(jitter=0.4, min_visible=0.05),
        BoxAugmentation(longest_side=80, jitter=0.1),
    ],
)
def test_boxes_and_proposals_enclose_what_they_enclosed(settings: BoxAugmentation, seed: int) -> None:
    drawn = augment_boxes(picture(), settings=settings, fill=FILL, rng=np.random.default_rng(seed))
    assert len(drawn.labels) > 0
    for box, label in zip(drawn.boxes, drawn.labels, strict=True):
        assert np.abs(box - extent(drawn.pixels, 2 * label)).max() <= (1 if settings.longest_side == 80 else 0)
        assert (drawn.proposals == box).all(axis=1).any()
    height, width = drawn.pixels.shape[:2]
    assert (drawn.boxes >= 0).all()
    assert (drawn.boxes <= [width, height, width, height]).all()
    if settings.longest_side == 80:
        assert max(height, width) <= 80 * 1.2


def test_a_box_of_which_too_little_is_left_is_dropped() -> None:
    settings = BoxAugmentation(jitter=0.4, min_visible=1.0)
    drawn = [augment_boxes(picture(), settings=settings, fill=FILL, rng=np.random.default_rng(s)) for s in range(40)]
    assert {len(image.labels) for image in drawn} == {0, 1, 2}
    for image in drawn:
        sides = image.boxes[:, 2:] - image.boxes[:, :2]
        assert sides.tolist() == [[[50, 50], [60, 70]][label] for label in image.labels]


def test_the_default_changes_nothing_but_the_side() -> None:
    image = picture()
    drawn = [
        augment_boxes(image, settings=BoxAugmentation(), fill=FILL, rng=np.random.default_rng(s)) for s in range(8)
    ]
    mirrored = [bool((d.pixels == image.pixels[:, ::-1]).all()) for d in drawn]
    assert set(mirrored) == {True, False}
    for flipped, other in zip(mirrored, drawn, strict=True):
        assert flipped or np.array_equal(other.pixels, image.pixels)
        assert other.boxes[0].tolist() == ([100, 20, 150, 70] if flipped else [10, 20, 60, 70])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_upright_with_the_pixels(orientation: int) -> None:
    image = picture()
    pixels = images.to_upright(image.pixels, orientation)
    height, width = pixels.shape[:2]
    turned = images.boxes_to_upright(image.boxes, orientation, height=height, width=width)
    assert turned.tolist() == [extent(pixels, 0), extent(pixels, 2)]
