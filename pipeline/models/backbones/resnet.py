"""Residual network backbones with a chosen output stride.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016. The 3x3 convolution of a bottleneck has the
stride ("v1.5"), as in torchvision, whose published weights load key for key. Atrous convolution replaces striding as
in Chen et al., "Rethinking Atrous Convolution", 2017, section 3.1.

    stem 7x7/2, 64 -> max-pool 3x3/2 -> layer1 (/4) -> layer2 (/8) -> layer3 (/16) -> layer4 (/32)

With output stride 16, layer4 keeps the resolution and has rate 2; with 8, layer3 has rate 2 and layer4 rate 4.

Wide ResNet-50-2 (Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016) is `depth=50, widen=2`: twice the
channels in the 3x3 convolutions of the bottlenecks. Their CIFAR networks are in `wide_resnet`.
"""

from typing import Literal, NamedTuple

from torch import Tensor, nn

from pipeline.models.layers import BatchNorm2d, ResidualBlock, conv_bn_relu, kaiming, scaled

Depth = Literal[18, 34, 50, 101, 152]
BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class ResNetFeatures(NamedTuple):
    """Two feature maps.

    Attributes:
        layer3: Features [batch, channels3, h, w] for an auxiliary head.
        layer4: Features [batch, channels4, h, w] at the output stride.
    """

    layer3: Tensor
    layer4: Tensor


def conv3x3(inputs: int, outputs: int, *, stride: int = 1, rate: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=rate, dilation=rate, bias=False)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions with an identity shortcut (ResNet-18 and 34).

    Args:
        inputs: Channels of the input.
        planes: Channels of the block before expansion; the output has `planes · expansion`.
        widen: Factor by which the channels inside the block are multiplied.
        stride: Stride of the first 3x3 convolution and of the projection.
        rate: Atrous rate of the 3x3 convolutions.
        projection: Shortcut in place of the identity, where stride or channels change.
    """

    expansion = 1

    def __init__(self, *, inputs: int, planes: int, widen: int, stride: int, rate: int, projection: nn.Module | None):
        super().__init__()
        middle = planes * widen
        self.conv1 = conv3x3(inputs, middle, stride=stride, rate=rate)
        self.bn1 = BatchNorm2d(middle)
        self.conv2 = conv3x3(middle, planes, rate=rate)
        self.bn2 = BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shortcut and the residual [batch, planes, h / stride, w / stride] of a map."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return shortcut, self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))

    def after_sum(self, x: Tensor) -> Tensor:
        """Return the ReLU of the sum."""
        return self.relu(x)


class Bottleneck(ResidualBlock):
    """A 1x1 convolution that reduces, a 3x3 and a 1x1 that expands, with an identity shortcut (ResNet-50 and deeper).

    The arguments are those of `BasicBlock`.
    """

    expansion = 4

    def __init__(self, *, inputs: int, planes: int, widen: int, stride: int, rate: int, projection: nn.Module | None):
        super().__init__()
        middle = planes * widen
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = BatchNorm2d(middle)
        self.conv2 = conv3x3(middle, middle, stride=stride, rate=rate)
        self.bn2 = BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, planes * self.expansion, 1, bias=False)
        self.bn3 = BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shortcut and the residual [batch, 4 · planes, h / stride, w / stride] of a map."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return shortcut, self.bn3(self.conv3(y))

    def after_sum(self, x: Tensor) -> Tensor:
        """Return the ReLU of the sum."""
        return self.relu(x)


class ResNet(nn.Module):
    """A ResNet without its classifier.

    Args:
        depth: Number of layers: 18, 34, 50, 101 or 152.
        output_stride: Pixels of the image per unit of the last feature map: 8, 16 or 32.
        width: Factor by which every layer's channels are multiplied.
        widen: Factor by which the channels inside the residual blocks are multiplied.
        multi_grid: Whether the blocks of layer4 have 1, 2 and 4 times its rate (DeepLab v3, section 3.3).
        deep_stem: Whether three 3x3 convolutions (64, 64, 128) replace the 7x7 one, as in PSPNet.

    Attributes:
        channels3: Channels of the output of layer3.
        channels4: Channels of the output of layer4.
    """

    def __init__(
        self,
        *,
        depth: Depth,
        output_stride: Literal[8, 16, 32] = 32,
        width: float = 1.0,
        widen: int = 1,
        multi_grid: bool = False,
        deep_stem: bool = False,
    ):
        super().__init__()
        self._block: type[BasicBlock] | type[Bottleneck] = BasicBlock if depth < 50 else Bottleneck
        self._rate = 1
        self._widen = widen
        planes = [scaled(base, width) for base in (64, 128, 256, 512)]
        self._inputs = planes[1] if deep_stem else planes[0]
        atrous3, atrous4 = output_stride <= 8, output_stride <= 16

        self.conv1: nn.Module = (
            nn.Sequential(
                *conv_bn_relu(3, planes[0], 3, stride=2),
                *conv_bn_relu(planes[0], planes[0], 3),
                conv3x3(planes[0], planes[1]),
            )
            if deep_stem
            else nn.Conv2d(3, planes[0], 7, stride=2, padding=3, bias=False)
        )
        self.bn1 = BatchNorm2d(self._inputs)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks = BLOCKS[depth]
        self.layer1 = self._stage(planes[0], blocks[0], stride=1, atrous=False)
        self.layer2 = self._stage(planes[1], blocks[1], stride=2, atrous=False)
        self.layer3 = self._stage(planes[2], blocks[2], stride=2, atrous=atrous3)
        self.layer4 = self._stage(planes[3], blocks[3], stride=2, atrous=atrous4, multi_grid=multi_grid)
        self.channels3 = planes[2] * self._block.expansion
        self.channels4 = planes[3] * self._block.expansion
        kaiming(self.modules())

    def _stage(self, planes: int, blocks: int, *, stride: int, atrous: bool, multi_grid: bool = False) -> nn.Sequential:
        first_rate = self._rate  # as in torchvision, the first block has the previous stage's rate
        if atrous:
            self._rate *= stride
            stride = 1
        rates = [self._rate * grid for grid in (1, 2, 4)] if multi_grid else [first_rate] + [self._rate] * (blocks - 1)
        layers: list[nn.Module] = []
        for i in range(blocks):
            outputs = planes * self._block.expansion
            projection = None
            if i == 0 and (stride != 1 or self._inputs != outputs):
                projection = nn.Sequential(
                    nn.Conv2d(self._inputs, outputs, 1, stride=stride, bias=False), BatchNorm2d(outputs)
                )
            layers.append(
                self._block(
                    inputs=self._inputs,
                    planes=planes,
                    widen=self._widen,
                    stride=stride if i == 0 else 1,
                    rate=rates[i % len(rates)],
                    projection=projection,
                )
            )
            self._inputs = outputs
        return nn.Sequential(*layers)

    def forward(self, images: Tensor) -> ResNetFeatures:
        """Return the features of normalised images [batch, 3, height, width]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        layer3 = self.layer3(self.layer2(self.layer1(x)))
        return ResNetFeatures(layer3, self.layer4(layer3))
