"""Class activation maps and the boxes made from them."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.cam.activation import average, class_maps, heatmaps, normalise, resize
from pipeline.cam.boxes import all_boxes, distance_boxes, largest_box, mask_above
from pipeline.cam.options import Interpolation, Normalisation


def test_the_mean_of_a_map_is_the_score_of_its_class_without_the_bias() -> None:
    torch.manual_seed(0)
    features = torch.randn(1, 6, 5, 7)
    last = nn.Linear(6, 4)
    scores = last(features.mean(dim=(2, 3)))[0] - last.bias
    maps = class_maps(features[0].numpy(), last.weight.detach().numpy(), [2, 0])
    assert maps.shape == (2, 5, 7)
    expected = scores.detach()[[2, 0]].numpy()
    np.testing.assert_allclose(maps.mean(axis=(1, 2)), expected, atol=1e-5)  # float32 sums of values around 1


def test_normalisations_of_a_small_map() -> None:
    maps = np.array([[[-2.0, 0.0], [1.0, 4.0]]])
    np.testing.assert_allclose(normalise(maps, "max"), [[[-0.5, 0.0], [0.25, 1.0]]])
    np.testing.assert_allclose(normalise(maps, "relu_max"), [[[0.0, 0.0], [0.25, 1.0]]])
    np.testing.assert_allclose(normalise(maps, "min_max"), [[[0.0, 1 / 3], [0.5, 1.0]]])


@pytest.mark.parametrize("how", ["max", "relu_max", "min_max"])
@pytest.mark.parametrize("value", [-1.0, 0.0, np.nan])
def test_a_map_without_a_positive_value_becomes_zero_and_has_no_box(how: Normalisation, value: float) -> None:
    found = normalise(np.full((2, 3, 3), value), how)
    assert (found == 0).all()
    assert len(largest_box(found[0])) == len(all_boxes(found[0])) == len(distance_boxes(found[0])) == 0


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(28, 30), (7, 5), (1, 3), (224, 224)])
def test_resizing_agrees_with_torch(how: Interpolation, size: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).normal(size=(3, 7, 5)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], size=size, mode=how)[0].numpy()
    np.testing.assert_allclose(resize(maps, size, how), expected, atol=1e-5)  # float32 sums of values around 1


def test_the_order_of_resizing_and_normalising_matters() -> None:
    maps = np.zeros((1, 4, 4))
    maps[0, 1, 1] = 1
    first = heatmaps(maps, (6, 6), how="max")
    second = heatmaps(maps, (6, 6), how="max", order="normalise_first")
    assert first.max() == 1
    assert second.max() < 1


def test_maps_of_mirrored_and_scaled_inputs_are_aligned_before_averaging() -> None:
    maps = np.random.default_rng(0).random((1, 4, 6)).astype(np.float32)
    both = average([maps, maps[..., ::-1]], (4, 6), flipped=[False, True])
    np.testing.assert_allclose(both, maps, atol=1e-6)
    constant = average([np.ones((1, 2, 3)), np.full((1, 8, 12), 3.0)], (4, 6), flipped=[False, False])
    np.testing.assert_allclose(constant, 2.0)


def squares() -> np.ndarray:
    heatmap = np.zeros((40, 50))
    heatmap[5:15, 5:25] = 0.5  # 200 pixels
    heatmap[25:31, 30:40] = 1.0  # 60 pixels
    heatmap[0, 49] = 0.3
    return heatmap


def test_the_largest_box_surrounds_the_largest_component() -> None:
    assert largest_box(squares()).tolist() == [[5, 5, 25, 15]]
    assert largest_box(squares(), threshold=0.6).tolist() == [[30, 25, 40, 31]]
    assert largest_box(10 * squares(), threshold=0.2).tolist() == [[5, 5, 25, 15]]


def test_all_boxes_start_with_the_largest_component() -> None:
    assert all_boxes(squares()).tolist() == [[5, 5, 25, 15], [30, 25, 40, 31], [49, 0, 50, 1]]
    assert len(all_boxes(squares(), min_share=0.1)) == 2
    np.testing.assert_array_equal(mask_above(squares(), 0.2), squares() >= 0.2)


def test_distance_boxes_separate_components_that_touch() -> None:
    """Two discs connected by a bridge are one component, but have two boxes."""
    y, x = np.mgrid[:70, :140]
    heatmap = ((x - 35) ** 2 + (y - 35) ** 2 < 30**2) | ((x - 105) ** 2 + (y - 35) ** 2 < 30**2)
    heatmap = heatmap | ((y == 35) & (x > 35) & (x < 105))
    assert len(all_boxes(heatmap.astype(float))) == 1
    found = distance_boxes(heatmap.astype(float))
    assert len(found) == 2
    np.testing.assert_allclose(sorted(found[:, 0]), [7, 77], atol=2)
