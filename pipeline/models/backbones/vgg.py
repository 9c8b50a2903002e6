"""VGG16, the backbone of FCN, DeepLab v1 and v2, DeconvNet, SegNet and other networks.

Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
configuration D: thirteen 3x3 convolutions with ReLU in five stages, a 2x2 max-pool after each stage, then fully
connected layers of 4096, 4096 and 1000, which are omitted here.

    conv1 x2, 64 | pool /2 | conv2 x2, 128 | pool /4 | conv3 x3, 256 | pool /8 | conv4 x3, 512 | pool /16
      | conv5 x3, 512 | pool /32

With output stride 16 or 8, the last one or two pools keep the resolution (they have stride 1 and are not removed) and
the convolutions after them get rates 2 and 4. Modules have torchvision's positions in `features`, with and without
batch normalisation, so its published `vgg16` and `vgg16_bn` load key for key.
"""

from itertools import pairwise
from typing import Literal, NamedTuple

from torch import Tensor, nn

from pipeline.models.layers import BatchNorm2d, kaiming, scaled
from pipeline.models.upsampling import max_pooling_with_switches

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, number of convolutions


class VGGFeatures(NamedTuple):
    """The outputs [batch, channels, h, w] of the five pools."""

    pool1: Tensor
    pool2: Tensor
    pool3: Tensor
    pool4: Tensor
    pool5: Tensor


class Switches(NamedTuple):
    """The information that max unpooling needs to invert a pooling layer.

    Attributes:
        indices: Flat positions of the maxima in the map before the pooling.
        size: (height, width) of that map.
    """

    indices: Tensor
    size: tuple[int, int]


class VGG16(nn.Module):
    """VGG16 without its classifier.

    Pooling rounds sizes up (Caffe's rule, with which FCN and DeepLab were trained), so no pixel is lost and no map
    becomes empty, however small the image.

    Args:
        width: Factor by which every layer's channels are multiplied.
        batch_norm: Whether batch normalisation follows each convolution, as in SegNet and DeconvNet.
        output_stride: Pixels of the image per unit of the last map: 8, 16 or 32.
        pool: Side of the pooling windows: 2, or 3 as in DeepLab.
        input_padding: Padding of conv1_1: 1, or 100 as in FCN.
        stages: Number of stages to build, at most 5.

    Attributes:
        channels: Channels of the maps that `forward` returns.
        rate: Atrous rate for layers that follow.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        batch_norm: bool = False,
        output_stride: Literal[8, 16, 32] = 32,
        pool: Literal[2, 3] = 2,
        input_padding: int = 1,
        stages: int = 5,
    ):
        super().__init__()
        self.channels = tuple(scaled(base, width) for base, _ in STAGES[:stages])
        layers: list[nn.Module] = []
        self._ends = [0]  # positions in `features` where the stages end
        inputs, stride, rate = 3, 1, 1
        for outputs, (_, convolutions) in zip(self.channels, STAGES, strict=False):
            for _ in range(convolutions):
                layers.append(nn.Conv2d(inputs, outputs, 3, padding=rate if layers else input_padding, dilation=rate))
                layers += [BatchNorm2d(outputs)] if batch_norm else []
                layers.append(nn.ReLU(inplace=True))
                inputs = outputs
            if stride < output_stride:
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=True) if pool == 2 else nn.MaxPool2d(3, 2, padding=1))
                stride *= 2
            else:
                layers.append(_pool_in_place(pool, rate))
                rate *= 2
            self._ends.append(len(layers))
        self.features = nn.Sequential(*layers)
        self.rate = rate
        kaiming(self.modules())

    def forward(self, images: Tensor) -> VGGFeatures:
        """Return the outputs of the five pools on normalised images [batch, 3, height, width]."""
        x, pooled = images, []
        for start, end in pairwise(self._ends):
            x = self.features[start:end](x)
            pooled.append(x)
        return VGGFeatures(*pooled)

    def before_pools(self, images: Tensor) -> list[Tensor]:
        """Return the map before the pool of each stage, for normalised images [batch, 3, height, width]."""
        x, maps = images, []
        for start, end in pairwise(self._ends):
            if start:
                x = self.features[start - 1](x)
            x = self.features[start : end - 1](x)
            maps.append(x)
        return maps

    def encode(self, images: Tensor) -> tuple[Tensor, list[Switches]]:
        """Return the map after the last pool and the switches of all pools in order; for 2x2 pools of stride 2 only."""
        x, switches = images, []
        for start, end in pairwise(self._ends):
            x = self.features[start : end - 1](x)
            size = (x.shape[-2], x.shape[-1])
            x, indices = max_pooling_with_switches(x)
            switches.append(Switches(indices, size))
        return x, switches


def _pool_in_place(side: int, rate: int) -> nn.Module:
    """Return a max-pool of stride 1 that keeps the size; a window of 2 is padded on the right and at the bottom."""
    if side == 3:
        return nn.MaxPool2d(3, stride=1, padding=1)
    return nn.Sequential(nn.ReplicationPad2d((0, rate, 0, rate)), nn.MaxPool2d(2, stride=1, dilation=rate))
