"""Multi-scale inputs with max fusion, around any network.

Chen et al., "DeepLab", PAMI 2018, section 4.1 ("MSC"): the image at scales 1, 0.75 and 0.5 goes through one network
with shared weights; score maps are upsampled to the largest and fused by the element-wise maximum. In training the
fused map and the map of each scale have losses of equal weight.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.layers import SegmentationOutput

SCALES = (1.0, 0.75, 0.5)


class MultiScale(nn.Module):
    """A network that sees its image at several scales.

    Args:
        network: any segmentation network without auxiliary outputs.
        scales: the first is 1, the others smaller.

    In train mode the `auxiliary` outputs are the maps of each scale, before the fusion.
    """

    def __init__(self, network: nn.Module, *, scales: tuple[float, ...] = SCALES):
        super().__init__()
        self.network = network
        self.output_stride = network.output_stride
        self._scales = scales

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Scores of normalised images [batch, 3, height, width], any size from 1x1."""
        maps = [self.network(_resized(images, scale)).logits for scale in self._scales]
        size = maps[0].shape[-2:]
        maps = [maps[0], *(F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps[1:])]
        fused = torch.stack(maps).amax(dim=0)
        return SegmentationOutput(fused, tuple(maps) if self.training else ())


def _resized(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    size = [max(1, round(n * scale)) for n in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)
