r"""Deep Contextual Networks.

Chen, Qi, Cheng & Heng, "Deep Contextual Networks for Neuronal Structure Segmentation", AAAI 2016.

    64 x2 -> pool -> 128 x2 -> pool -> 256 x3 -> pool -> 512 x3
                       |                 |                 |
                  deconv 4, x2      deconv 8, x4      deconv 16, x8      to the classes
                  3x3 -> 1x1        3x3 -> 1x1        3x3 -> 1x1
                       \---------------(+)---------------/  scores: the sum of the three

What it introduced: three depths of one network, each upsampled to full resolution in one step, each with its own loss
(deep supervision), fused by their *sum*. The weights of the auxiliary losses decay during training
(`--loss.auxiliary-decay`).

Parameters: 7,934,410 at 2 classes (1,152 fewer with the paper's grey input), 10.79 M at 21. Output stride 1. The trunk
is VGG16's up to conv4_3, so it takes torchvision's `vgg16`. It has no batch normalisation.
"""

from typing import ClassVar

from torch import Tensor, nn

from pipeline.models.backbones.vgg import VGG16
from pipeline.models.config import ModelConfig
from pipeline.models.layers import SegmentationOutput, crop_to, kaiming

FACTORS = (2, 4, 8)  # upsampling of conv2, conv3 and conv4 to the size of the image


class DeepContextualConfig(ModelConfig):
    """Configuration of a Deep Contextual Network."""

    paper: ClassVar[str] = "Chen, Qi, Cheng & Heng, AAAI 2016"
    auxiliary_weight: ClassVar[float] = 1.0
    auxiliary_decay: ClassVar[bool] = True

    def build(self, num_classes: int) -> "DeepContextual":
        """Return a Deep Contextual Network with fresh weights."""
        return DeepContextual(self, num_classes=num_classes)


class DeepContextual(nn.Module):
    """Deep Contextual Network; in train mode its `auxiliary` outputs are the scores of the three branches."""

    output_stride = 1

    def __init__(self, config: DeepContextualConfig, *, num_classes: int):
        super().__init__()
        self.backbone = VGG16(width=config.width, stages=4)
        self.branches = nn.ModuleList(
            _branch(inputs, num_classes, factor)
            for inputs, factor in zip(self.backbone.channels[1:], FACTORS, strict=True)
        )
        kaiming(self.branches.modules())

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the scores of normalised images [batch, 3, height, width] of any size from 1x1."""
        size = (images.shape[-2], images.shape[-1])
        maps = self.backbone.before_pools(images)[1:]
        scores = [crop_to(branch(x), size) for branch, x in zip(self.branches, maps, strict=True)]
        fused = scores[0] + scores[1] + scores[2]
        return SegmentationOutput(fused, tuple(scores) if self.training else ())


def _branch(inputs: int, num_classes: int, factor: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, num_classes, 2 * factor, stride=factor, padding=factor // 2),
        nn.ReLU(inplace=True),
        nn.Conv2d(num_classes, num_classes, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(num_classes, num_classes, 1),
    )
