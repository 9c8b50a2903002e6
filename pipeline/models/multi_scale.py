"""Multi-scale inputs with max fusion for any segmentation network.

Chen et al., "DeepLab", PAMI 2018, section 4.1 ("MSC"): one network scores the image at scales 1, 0.75 and 0.5; the
score maps are upsampled to the size of the largest and fused by the element-wise maximum. In training, the fused map
and the map of each scale have losses of equal weight.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.layers import SegmentationOutput

SCALES = (1.0, 0.75, 0.5)


class MultiScale(nn.Module):
    """A network applied at several scales; in train mode its `auxiliary` outputs are the score maps of each scale.

    Args:
        network: Segmentation network without auxiliary outputs.
        scales: Scales of the image, of which the first is 1 and the others are smaller.
    """

    def __init__(self, network: nn.Module, *, scales: tuple[float, ...] = SCALES):
        super().__init__()
        self.network = network
        self.output_stride = network.output_stride
        self._scales = scales

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the scores of normalised images [batch, 3, height, width] of any size from 1x1."""
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
