r"""SPPNet: spatial pyramid pooling over the regions of one map.

He, Zhang, Ren & Sun, "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition", ECCV 2014; PAMI
2015, section 4.

    image at 5 scales -> convolutions, once -> maps /16 --\
    proposals ---------------------------------------------> pyramid 1x1, 2x2, 3x3, 6x6: 50 bins -> fc6 4096 -> fc7 4096
      -> softmax, K + 1 (fine-tuning) | K linear SVMs on fc7 | box regression on the pyramid

What it introduced over R-CNN: the convolutions run once over the image, not once per proposal, because a pyramid of
bins gives a region of any size the same number of features; 24 to 102 times faster. Only the fully connected layers
are fine-tuned: in this form, gradients do not reach the convolutions.

Each region is taken from the scale (short side 480, 576, 688, 864 or 1200) at which its area is nearest to 224x224.
The first and last unit of its window are floor(x / 16) + 1 and ceil(x / 16) - 1 (appendix A), so that the windows lie
inside of the regions.

Parameters with VGG16 at 20 classes: 121,729,045 of fc6, fc7 and the softmax are trained, 14,714,688 are not.

Deviations: the paper's ZF-5 and Overfeat-7 give way to AlexNet, VGG16 and the ResNets. A ResNet's map is that of layer4
with stride 16. The sample of an image is R-CNN's, without the paper's rules for near-duplicate negatives. The long side
of the image is limited to 2400 pixels, which shrinks images of more than 2:1 at the largest scale.
"""

from typing import ClassVar

import torch
import torchvision
from pydantic import Field
from torch import Tensor

from pipeline.models.detection.boxes import Selection
from pipeline.models.detection.inputs import (
    at_least_float32,
    image_size,
    padded,
    resized,
    scaled_boxes,
    with_short_side,
)
from pipeline.models.detection.region_network import STRIDE, RegionConfig
from pipeline.models.detection.staged import SVM_SELECTION, RegionFeatures, StagedNetwork

PYRAMID = (1, 2, 3, 6)
SCALES = (480, 576, 688, 864, 1200)
AREA = 224**2  # pixels of a region, to which its scale comes nearest


class SPPNetConfig(RegionConfig):
    """Configuration of SPPNet."""

    paper: ClassVar[str] = "He, Zhang, Ren & Sun, ECCV 2014"
    staged: ClassVar[bool] = True
    selection: ClassVar[Selection] = SVM_SELECTION

    scales: tuple[int, ...] = Field(
        default=SCALES, min_length=1, description="short sides of the image, in pixels, at which it is computed"
    )
    longest_side: int = Field(
        default=2400, ge=64, description="largest long side of the image, in pixels, at any scale"
    )
    pyramid: tuple[int, ...] = Field(
        default=PYRAMID, min_length=1, description="numbers of bins in a row at each level of the pyramid"
    )
    regions: int = Field(default=64, ge=1, description="number of regions of an image in a training step")

    def build(self, num_classes: int) -> "SPPNet":
        """Return an SPPNet with fresh weights."""
        return SPPNet(self, num_classes=num_classes)


class SPPNet(StagedNetwork):
    """SPPNet on AlexNet, VGG16 or a ResNet."""

    def __init__(self, config: SPPNetConfig, *, num_classes: int):
        bins = sum(n * n for n in config.pyramid)
        super().__init__(config, num_classes=num_classes, regions=config.regions, bins=bins)
        self._scales, self._longest_side, self._pyramid = config.scales, config.longest_side, config.pyramid
        self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> "SPPNet":
        """Set the mode of all layers but those of the backbone, whose batch normalisation stays as it is."""
        super().train(mode)
        self.backbone.eval()
        return self

    def features(self, image: Tensor, regions: Tensor) -> RegionFeatures:
        """Return the features of regions of an image; see `StagedNetwork.features`."""
        size = image_size(image)
        sizes = [with_short_side(size, scale, self._longest_side) for scale in self._scales]
        chosen = nearest_scales(regions, size, sizes)
        parts, places = [], []
        for i in chosen.unique().tolist():
            maps = self.maps(padded([resized(image, sizes[i])]))
            mine = torch.nonzero(chosen == i)[:, 0]
            windows = map_windows(scaled_boxes(regions[mine], size, sizes[i]), image_size(maps))
            parts.append(pyramid_pool(maps, windows, self._pyramid))
            places.append(mine)
        pooled = torch.cat(parts)[torch.cat(places).argsort()]
        return RegionFeatures(pooled, self.head(pooled))


def nearest_scales(regions: Tensor, size: tuple[int, int], sizes: list[tuple[int, int]]) -> Tensor:
    """Return the index of the size of the image at which each region's area is nearest to 224x224, int64 [n].

    Args:
        regions: Regions [n, 4] in the image.
        size: (height, width) of the image.
        sizes: (height, width) of the resized images.
    """
    scaled = torch.stack([scaled_boxes(regions, size, to) for to in sizes])
    areas = (scaled[..., 2:] - scaled[..., :2]).prod(dim=-1)
    return (areas - AREA).abs().argmin(dim=0)


def map_windows(regions: Tensor, size: tuple[int, int], stride: int = STRIDE) -> Tensor:
    """Return the windows of regions on a map (appendix A); each has at least one unit.

    Args:
        regions: Regions [n, 4] in pixels.
        size: (height, width) of the map.
        stride: Pixels per unit of the map.

    Returns:
        First and last units: left, top, right, bottom, all inclusive, of the type of `regions`, [n, 4].
    """
    last = regions.new_tensor([size[1] - 1, size[0] - 1])
    first = torch.minimum(torch.floor(regions[:, :2] / stride) + 1, last)
    # The last pixel of a region is one before its exclusive border.
    end = torch.minimum(torch.ceil((regions[:, 2:] - 1) / stride) - 1, last)
    return torch.cat([first, torch.maximum(first, end)], dim=1)


def pyramid_pool(maps: Tensor, windows: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Return the maxima of the bins of a pyramid over windows of a map.

    Bin i of n covers the units from floor(i / n · w) to ceil((i + 1) / n · w) of a window that is w units wide
    (appendix A), which is RoI pooling without rounding.

    Args:
        maps: One map [1, channels, h, w].
        windows: Inclusive windows [n, 4] in units of the map.
        levels: Numbers of bins in a row at each level.

    Returns:
        [n, bins · channels], level after level, each [channels, bins, bins].
    """
    precise = at_least_float32(maps)
    pooled = [torchvision.ops.roi_pool(precise, [windows.to(precise)], level, 1.0) for level in levels]
    return torch.cat([level.flatten(1) for level in pooled], dim=1).to(maps)
