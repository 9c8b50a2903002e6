"""The convolutional part of VGG16.

Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
configuration D: thirteen 3x3 convolutions with ReLU in five stages, a 2x2 max-pool after each. Module
positions in `features` are torchvision's, so its published weights load key for key.
"""

from typing import NamedTuple

from torch import Tensor, nn

from pipeline.models.layers import scaled

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions


class VGGFeatures(NamedTuple):
    """Maps after pool3 (/8), pool4 (/16) and pool5 (/32), each [batch, channels, h, w]."""

    pool3: Tensor
    pool4: Tensor
    pool5: Tensor


class VGG16(nn.Module):
    """VGG16 without its classifier.

    Pooling rounds up (Caffe's rule, which FCN and DeepLab were trained with), so that no pixel is lost and
    no map vanishes, however small the image.

    Args:
        width: multiplies every layer's channels.

    Attributes:
        channels3, channels4, channels5: channels of the maps that `forward` returns.
    """

    def __init__(self, *, width: float = 1.0):
        super().__init__()
        layers: list[nn.Module] = []
        self._pools: list[int] = []
        inputs = 3
        for base, convolutions in STAGES:
            outputs = scaled(base, width)
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = outputs
            self._pools.append(len(layers))
            layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.channels3, self.channels4, self.channels5 = (scaled(base, width) for base, _ in STAGES[2:])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> VGGFeatures:
        """Features of normalised images [batch, 3, height, width]."""
        pooled = []
        x = images
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self._pools[2:]:
                pooled.append(x)
        return VGGFeatures(*pooled)
