"""Masks and pseudo-labels from maps, and the encoding of heatmaps."""

import numpy as np
import pytest

from pipeline.cam.masks import IGNORE, label_map, pseudo_labels
from pipeline.data.images import decode_heatmap, decode_mask, encode_heatmap, encode_mask


def ramps() -> np.ndarray:
    """Return two maps [2, 20, 100]: one falls from 1 to 0 over the left half, the other rises over the right half."""
    fall = np.clip(1 - np.arange(100) / 50, 0, 1)
    return np.stack([np.tile(row, (20, 1)) for row in (fall, fall[::-1])]).astype(np.float32)


def test_the_largest_map_above_the_background_wins() -> None:
    labels = label_map(ramps(), background=0.4)
    np.testing.assert_array_equal(labels[0], [1] * 30 + [0] * 40 + [2] * 30)
    assert (label_map(np.zeros((0, 5, 6), np.float32), background=0.2) == 0).all()


def test_pixels_between_the_two_background_scores_are_ignored() -> None:
    labels = pseudo_labels(ramps(), sure_foreground=0.4, sure_background=0.1)
    np.testing.assert_array_equal(labels[0], [1] * 30 + [IGNORE] * 15 + [0] * 10 + [IGNORE] * 15 + [2] * 30)
    with pytest.raises(ValueError, match="above sure_foreground"):
        pseudo_labels(ramps(), sure_foreground=0.1, sure_background=0.4)


def test_a_crf_aligns_the_mask_with_the_image() -> None:
    """The object ends at column 42, the thresholded map at column 30."""
    pixels = np.zeros((20, 100, 3), np.uint8)
    pixels[:, :42] = (200, 60, 40)
    pixels[:, 42:] = (40, 90, 180)
    labels = label_map(ramps()[:1], background=0.4, pixels=pixels)
    edge = (labels == 1).sum(axis=1)
    assert (abs(edge - 42) <= 1).all()


@pytest.mark.parametrize("value", [0.0, -3.5])
def test_a_heatmap_is_restored_from_8_bits(value: float) -> None:
    raw = np.random.default_rng(0).normal(size=(14, 9)).astype(np.float32)
    png, scale, offset = encode_heatmap(raw)
    np.testing.assert_allclose(decode_heatmap(png, scale, offset), raw, atol=scale / 2 + 1e-6)
    assert len(png) < 400
    constant = decode_heatmap(*encode_heatmap(np.full((3, 4), value, np.float32)))
    np.testing.assert_array_equal(constant, np.full((3, 4), value))


def test_a_label_that_a_palette_cannot_hold_is_refused() -> None:
    """With a palette of four colours, a PNG has two bits per pixel, so that 255 would become 3."""
    palette = np.zeros((4, 3), np.uint8)
    with pytest.raises(ValueError, match="label 255 has no colour"):
        encode_mask(np.array([[0, 255]]), palette)
    assert decode_mask(encode_mask(np.array([[0, 3]]), palette)).tolist() == [[0, 3]]
