"""GoogLeNet up to inception_4e, with batch normalisation, in the form that torchvision publishes.

Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, table 1.

    conv 7x7/2, 64 | pool /4 | 1x1, 64, 3x3, 192 | pool /8 | 3a 256, 3b 480 | pool /16 | 4a 512 … 4d 528, 4e 832

Deviations, which torchvision's weights need: batch normalisation after each convolution, no local response
normalisation, and 3x3 in place of the 5x5 convolutions. The last stage (inception_5a and 5b) and the auxiliary
classifiers are omitted, as in class activation mapping. The state dict has torchvision's keys.
"""

import torch
from torch import Tensor, nn

from pipeline.models.layers import BatchNorm2d, kaiming, scaled

# channels of the branches: 1x1; 1x1 and 3x3; 1x1 and "5x5"; 1x1 after the pool
INCEPTIONS = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
}


class GoogLeNet(nn.Module):
    """GoogLeNet without its last stage and classifier.

    Args:
        width: Factor by which every layer's channels are multiplied.

    Attributes:
        channels: Channels of the map that `forward` returns.
    """

    def __init__(self, *, width: float = 1.0):
        super().__init__()
        stem = [scaled(base, width) for base in (64, 64, 192)]
        self.conv1 = ConvBNReLU(3, stem[0], 7, stride=2)
        self.conv2 = ConvBNReLU(stem[0], stem[1], 1)
        self.conv3 = ConvBNReLU(stem[1], stem[2], 3)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        inputs = stem[2]
        for name, channels in INCEPTIONS.items():
            block = Inception(inputs, [scaled(base, width) for base in channels])
            self.add_module(name, block)
            inputs = block.outputs
        self.channels = inputs
        kaiming(self.modules())

    def forward(self, images: Tensor) -> Tensor:
        """Return features [batch, channels, h, w] of stride 16 of normalised images [batch, 3, height, width]."""
        x = self.pool(self.conv1(images))
        x = self.pool(self.conv3(self.conv2(x)))
        for name in INCEPTIONS:
            x = self.get_submodule(name)(x)
            if name == "inception3b":
                x = self.pool(x)
        return x


class ConvBNReLU(nn.Module):
    """A convolution that keeps the size at stride 1, batch normalisation and ReLU, under torchvision's names.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel: Side of the kernel.
        stride: Stride of the convolution.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = BatchNorm2d(outputs, eps=0.001)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return features [batch, outputs, h / stride, w / stride] of a map [batch, inputs, h, w]."""
        return self.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four parallel branches whose outputs are concatenated (figure 2b).

    Args:
        inputs: Channels of the input.
        channels: Channels of the branches' convolutions, in the order of `INCEPTIONS`.

    Attributes:
        outputs: Channels of the output.
    """

    def __init__(self, inputs: int, channels: list[int]):
        super().__init__()
        one, reduce3, three, reduce5, five, after_pool = channels
        self.branch1 = ConvBNReLU(inputs, one, 1)
        self.branch2 = nn.Sequential(ConvBNReLU(inputs, reduce3, 1), ConvBNReLU(reduce3, three, 3))
        self.branch3 = nn.Sequential(ConvBNReLU(inputs, reduce5, 1), ConvBNReLU(reduce5, five, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), ConvBNReLU(inputs, after_pool, 1))
        self.outputs = one + three + five + after_pool

    def forward(self, x: Tensor) -> Tensor:
        """Return features [batch, outputs, h, w] of a map [batch, inputs, h, w]."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)
