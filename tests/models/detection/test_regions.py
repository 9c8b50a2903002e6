"""Pooled regions against naive loops, and the features of one pass over an image against those of its parts."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models import configure
from pipeline.models.convolutionalize import without_padding
from pipeline.models.detection.fast_rcnn import FastRCNN, roi_pool
from pipeline.models.detection.rcnn import warped
from pipeline.models.detection.sppnet import PYRAMID, map_windows, nearest_scales, pyramid_pool
from tests.support.boxes import random_boxes


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def max_of_bins(image: Tensor, window: list[int], bins: int) -> Tensor:
    """The maxima of the bins x bins parts of an inclusive window of a map [channels, h, w], by a loop.

    The window can reach beyond the map; a bin outside it is zero.
    """
    left, top, right, bottom = window
    found = image.new_zeros(len(image), bins, bins)
    for i in range(bins):
        for j in range(bins):
            y = [top + math.floor(i * (bottom + 1 - top) / bins), top + math.ceil((i + 1) * (bottom + 1 - top) / bins)]
            x = [
                left + math.floor(j * (right + 1 - left) / bins),
                left + math.ceil((j + 1) * (right + 1 - left) / bins),
            ]
            part = image[:, y[0] : y[1], x[0] : x[1]]
            found[:, i, j] = part.amax(dim=(1, 2)) if part.numel() else 0
    return found


def round_half_up(x: float) -> int:
    return math.floor(x + 0.5)


@pytest.mark.parametrize("side", [6, 7])
def test_roi_pooling_equals_a_loop(side: int) -> None:
    maps = randn(2, 3, 14, 20)
    rng = np.random.default_rng(0)
    regions = [torch.from_numpy(random_boxes(rng, n, side=224, least=1)) for n in (20, 0)]
    regions.append(torch.tensor([[0.0, 0, 320, 224], [5, 5, 6, 6], [8, 8, 312, 200]], dtype=torch.float64))
    batched = [regions[0], torch.cat(regions[1:])]
    found = roi_pool(maps, batched, side)
    expected = []
    for image, some in zip(maps, batched, strict=True):
        for left, top, right, bottom in some.tolist():
            # The first and the last pixel of a region, rounded to units of the map (the released RoIPooling layer).
            window = [round_half_up(v / 16) for v in (left, top, right - 1, bottom - 1)]
            expected.append(max_of_bins(image, window, side))
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=0)
    assert len(found) == 23


def test_roi_pooling_of_a_whole_map_is_max_pooling() -> None:
    maps = randn(1, 4, 14, 14)
    found = roi_pool(maps, [torch.tensor([[0.0, 0, 216, 216]], dtype=torch.float64)], 7)
    torch.testing.assert_close(found, F.max_pool2d(maps, 2), rtol=0, atol=0)


def test_gradients_of_roi_pooling_reach_the_maxima_of_overlapping_regions() -> None:
    maps = randn(1, 2, 8, 8).requires_grad_()
    regions = [torch.tensor([[0.0, 0, 128, 128], [0, 0, 96, 96], [32, 0, 128, 64]], dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda m: roi_pool(m, regions, 3), maps)


def test_a_pyramid_equals_a_loop() -> None:
    maps = randn(1, 3, 15, 21)
    rng = np.random.default_rng(0)
    windows = torch.from_numpy(random_boxes(rng, 30, side=14))
    found = pyramid_pool(maps, windows, PYRAMID)
    assert found.shape == (30, 3 * 50)
    for features, window in zip(found, windows.int().tolist(), strict=True):
        expected = torch.cat([max_of_bins(maps[0], window, bins).flatten() for bins in PYRAMID])
        torch.testing.assert_close(features, expected, rtol=0, atol=0)


def test_windows_of_a_pyramid_are_those_of_the_papers_appendix() -> None:
    regions = torch.tensor([[40.0, 16, 201, 113], [0, 0, 336, 240], [50, 50, 52, 52], [330, 230, 336, 240]])
    found = map_windows(regions, (15, 21)).tolist()
    # floor(x / 16) + 1 and ceil(x / 16) - 1 of the first and last pixel
    assert found[0] == [3, 2, 12, 6]
    assert found[1] == [1, 1, 20, 14]
    assert found[2] == [4, 4, 4, 4]  # smaller than a unit: the one after its corner
    assert found[3] == [20, 14, 20, 14]  # within the map


def test_a_region_is_taken_from_the_scale_at_which_it_is_nearest_to_224_pixels() -> None:
    regions = torch.tensor([[0.0, 0, 480, 480], [0, 0, 107, 107], [0, 0, 186, 186], [0, 0, 50, 50]])
    sizes = [(480, 960), (576, 1152), (1200, 2400)]
    found = nearest_scales(regions, (480, 960), sizes).tolist()
    assert found == [0, 2, 1, 2]


@pytest.mark.parametrize("name", ["fast_rcnn_alexnet", "fast_rcnn_vgg16"])
def test_without_padding_the_map_of_a_region_is_a_part_of_the_map_of_the_image(name: str) -> None:
    model = configure(name, {"width": 0.0625}).build(3).double().eval()
    assert isinstance(model, FastRCNN)
    model.backbone = without_padding(model.backbone)
    image = randn(1, 3, 400, 432)
    with torch.inference_mode():
        whole, part = model.maps(image), model.maps(image[..., 32:352, 64:384])
    assert part.shape[-1] >= 5
    expected = whole[..., 2 : 2 + part.shape[-2], 4 : 4 + part.shape[-1]]
    torch.testing.assert_close(part, expected, rtol=1e-9, atol=1e-12)


def test_features_of_a_region_do_not_depend_on_the_image_beyond_its_receptive_fields() -> None:
    model = configure("fast_rcnn_vgg16", {"width": 0.0625}).build(3).double().eval()
    assert isinstance(model, FastRCNN)
    image = randn(1, 3, 352, 384)
    region = torch.tensor([[144.0, 128, 256, 224]], dtype=torch.float64)
    # conv5_3 sees 196 pixels: 98 and less around the centre of a unit.
    crop, moved = image[..., 16:336, 32:368], region - torch.tensor([32, 16, 32, 16])
    with torch.inference_mode():
        found, alone = model(image, [region]), model(crop, [moved])
        torch.testing.assert_close(found.logits, alone.logits, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.deltas, alone.deltas, rtol=1e-9, atol=1e-12)
        other = model(image, [region + 32])
    assert (other.logits - found.logits).abs().max() > 1e-6


def test_a_warped_region_is_the_crop_with_its_context() -> None:
    image = randn(3, 300, 320)
    # 195 pixels of the region and 16 on each side give 227: no pixel is interpolated.
    region = torch.tensor([[40.0, 50, 235, 245]], dtype=torch.float64)
    found = warped(image, region, side=227, context=16)
    torch.testing.assert_close(found[0], image[:, 34:261, 24:251], rtol=0, atol=1e-10)


def test_warping_equals_bilinear_resizing_of_the_region_with_context() -> None:
    image = randn(3, 200, 260)
    # 16 pixels of context in a square of 96 are a quarter of the 64 pixels of the region.
    region = torch.tensor([[40.0, 40, 168, 104], [100, 60, 132, 124]], dtype=torch.float64)
    found = warped(image, region, side=96, context=16)
    for crop, (left, top, right, bottom) in zip(found, [(8, 24, 200, 120), (92, 44, 140, 140)], strict=True):
        part = image[None, :, top:bottom, left:right]
        expected = F.interpolate(part, (96, 96), mode="bilinear", align_corners=False)[0]
        # The border of the part alone is extrapolated; that of the image is not.
        torch.testing.assert_close(crop[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], rtol=0, atol=1e-10)


def test_beyond_the_image_a_warped_region_has_the_mean_colour() -> None:
    image = 3 + torch.rand(3, 64, 64, dtype=torch.float64)
    crop = warped(image, torch.tensor([[0.0, 0, 64, 64]], dtype=torch.float64), side=96, context=16)[0]
    assert (crop[:, :15] == 0).all()
    assert (crop[:, :, -15:] == 0).all()
    torch.testing.assert_close(crop[:, 16:80, 16:80], image, rtol=0, atol=1e-10)
