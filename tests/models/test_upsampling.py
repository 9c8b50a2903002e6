"""Upsampling operations against hand-computed values and against matrices."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models import configure
from pipeline.models.backbones.vgg import VGG16
from pipeline.models.layers import crop_to, mirror_pad, pad_to_multiple
from pipeline.models.upsampling import (
    bed_of_nails_unpooling,
    bilinear_deconvolution,
    bilinear_kernel,
    max_pooling_with_switches,
    max_unpooling,
    nearest_unpooling,
    upsample,
)


def ramp(height: int, width: int) -> Tensor:
    """Return two channels with the row and column numbers."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns])[None].float()


# --- transposed convolution


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (4, 2, 1), (2, 2, 0), (5, 3, 2)])
def test_a_transposed_convolution_is_the_transpose_of_the_convolutions_matrix(
    kernel: int, stride: int, padding: int
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(1, 1, kernel, kernel, dtype=torch.float64)
    height, width = 7, 8
    units = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    small = F.conv2d(units, weight, stride=stride, padding=padding)
    matrix = small.flatten(1).T  # maps a flattened image to a flattened small map
    x = torch.randn(1, 1, *small.shape[-2:], dtype=torch.float64)
    rest = [n - ((m - 1) * stride - 2 * padding + kernel) for n, m in zip((7, 8), small.shape[-2:], strict=True)]
    large = F.conv_transpose2d(x, weight, stride=stride, padding=padding, output_padding=rest)
    torch.testing.assert_close(large.flatten(), matrix.T @ x.flatten())


def test_overlaps_are_summed() -> None:
    weight = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    x = torch.tensor([[[[10.0, 1.0]]]])
    found = F.conv_transpose2d(x, weight, stride=2)
    assert found.flatten().tolist() == [10, 20, 30 + 1, 2, 3]


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_bilinear_deconvolution_interpolates_in_the_interior(factor: int) -> None:
    maps = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    with torch.inference_mode():
        ours = bilinear_deconvolution(3, factor).double()(maps)
    expected = F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
    assert ours.shape == expected.shape == (2, 3, 6 * factor, 5 * factor)
    interior = slice(factor // 2, -(factor // 2))
    torch.testing.assert_close(ours[..., interior, interior], expected[..., interior, interior])


def test_bilinear_kernel_of_factor_2() -> None:
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    torch.testing.assert_close(bilinear_kernel(2), torch.outer(line, line))


# --- unpooling


def test_nearest_and_bed_of_nails_unpooling() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert nearest_unpooling(x, 2)[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert bed_of_nails_unpooling(x, 2)[0, 0].tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("size", [(5, 7), (6, 8), (1, 1), (1, 9)])
def test_max_unpooling_puts_each_maximum_back(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, *size) + 0.1
    pooled, switches = max_pooling_with_switches(x)
    assert pooled.shape[-2:] == (-(-size[0] // 2), -(-size[1] // 2))
    full = max_unpooling(pooled, switches, size)
    windows = F.interpolate(pooled, scale_factor=2, mode="nearest")[..., : size[0], : size[1]]
    torch.testing.assert_close(full, torch.where(x == windows, x, 0.0))


def test_segnet_pools_and_unpools_the_sizes_of_its_paper() -> None:
    with torch.device("meta"):
        _, switches = VGG16(batch_norm=True).encode(torch.empty(1, 3, 360, 480))
    assert [s.size for s in switches] == [(360, 480), (180, 240), (90, 120), (45, 60), (23, 30)]
    assert switches[-1].indices.shape[-2:] == (12, 15)


# --- interpolation


@pytest.mark.parametrize("stride", [2, 8, 16, 32])
def test_upsample_puts_each_score_on_the_middle_of_its_pixels(stride: int) -> None:
    size = (3 * stride - 1, 4 * stride - stride // 2)
    rows, columns = upsample(ramp(3, 4), size, stride=stride)[0]
    assert rows.shape == size
    where = (torch.arange(size[0]) + 0.5) / stride - 0.5
    torch.testing.assert_close(rows[:, 0], where.clamp(0, 2))
    where = (torch.arange(size[1]) + 0.5) / stride - 0.5
    torch.testing.assert_close(columns[0], where.clamp(0, 3))


@pytest.mark.parametrize("size", [(33, 47), (48, 33), (34, 48), (48, 48)])
def test_upsample_crops_and_never_stretches(size: tuple[int, int]) -> None:
    logits = torch.randn(2, 5, 3, 3, dtype=torch.float64)
    whole = F.interpolate(logits, size=(48, 48), mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample(logits, size, stride=16), whole[..., : size[0], : size[1]])


def test_upsample_by_one_only_crops() -> None:
    logits = torch.randn(1, 2, 5, 6).bfloat16()
    cropped = upsample(logits, (4, 6), stride=1)
    assert cropped.dtype == torch.bfloat16
    assert torch.equal(cropped, logits[:, :, :4])


def test_crop_to_keeps_the_upper_left_corner() -> None:
    assert torch.equal(crop_to(ramp(4, 5), (2, 3)), ramp(2, 3))


def test_fcn_16s_starts_as_fcn_32s_interpolated() -> None:
    """Its skips start at zero and its first upsampling as bilinear interpolation (section 4.3 of the paper)."""
    torch.manual_seed(0)
    coarse: Any = configure("fcn32s", {"width": 0.125}).build(4).eval().double()
    nn.init.normal_(coarse.score.weight)
    fine = configure("fcn16s", {"width": 0.125}).build(4).eval().double()
    missing = fine.load_state_dict(coarse.state_dict(), strict=False).missing_keys
    assert sorted(missing) == ["score_pool4.bias", "score_pool4.weight", "upscore_pool5.weight"]
    images = torch.randn(1, 3, 128, 160, dtype=torch.float64)
    with torch.inference_mode():
        expected = upsample(coarse(images).logits, (8, 10), stride=2)
        found = fine(images).logits
    assert expected.std() > 0.01
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


# --- padding an image


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 2, 3, 4), (9, 20, 33, 7)])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 4)])
def test_mirroring_is_numpys_reflection(size: tuple[int, int], pads: tuple[int, int, int, int]) -> None:
    image = torch.randn(1, 2, *size)
    expected = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (0, 0), pads[:2], pads[2:]), "reflect"))
    assert torch.equal(mirror_pad(image, *pads), expected)


def test_images_are_padded_to_a_multiple() -> None:
    image = ramp(5, 8)
    padded = pad_to_multiple(image, 4)
    assert padded.shape[-2:] == (8, 8)
    assert torch.equal(padded[..., :5, :], image)
    assert (padded[0, 0, 5:] == 4).all()
    assert pad_to_multiple(image, 4, at_least=13).shape[-2:] == (16, 16)
    assert pad_to_multiple(padded, 4) is padded
