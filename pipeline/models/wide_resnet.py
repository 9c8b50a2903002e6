"""Pre-activation residual networks for small images: ResNet-110 and wide ResNets.

He, Zhang, Ren & Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016; Zagoruyko & Komodakis, "Wide Residual
Networks", BMVC 2016.

    conv 3x3, 16 -> n blocks of 16 k -> n blocks of 32 k (/2) -> n blocks of 64 k (/4) -> BN, ReLU -> mean -> scores

    block:  x + conv3x3( dropout( ReLU BN( conv3x3( ReLU BN x ))))

Batch normalisation and ReLU come before each convolution, so the identity path is free from end to end: the network
is a sum over the paths of every length through its blocks (Veit, Wilber & Belongie, NIPS 2016). Only the first block
of a group, where channels and resolution change, has a 1x1 convolution in place of the identity.

    ResNet-110   n = 18, k = 1      1.74 M parameters at 10 classes
    WRN-d-k      n = (d - 4) / 6    WRN-28-10 36.48 M, WRN-40-4 8.95 M, WRN-16-8 10.96 M

Their strides end at 4, so there is nothing to gain from atrous convolution.
"""

from torch import Tensor, nn

from pipeline.models.layers import BatchNorm2d, kaiming

CHANNELS = (16, 32, 64)


class WideResNet(nn.Module):
    """A classifier of small images (CIFAR's 32x32); see the module's text.

    Args:
        num_classes: scores per image.
        blocks: n, of each of the three groups.
        widen: k, multiplies the groups' channels.
        dropout: probability within the blocks; the paper's 0.3 on CIFAR.
    """

    def __init__(self, *, num_classes: int, blocks: int, widen: int = 1, dropout: float = 0.0):
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS[0], 3, padding=1, bias=False)
        inputs, groups = CHANNELS[0], []
        for i, channels in enumerate(CHANNELS):
            group = []
            for j in range(blocks):
                stride = 2 if i and j == 0 else 1
                group.append(PreActivationBlock(inputs, channels * widen, stride=stride, dropout=dropout))
                inputs = channels * widen
            groups.append(nn.Sequential(*group))
        self.groups = nn.ModuleList(groups)
        self.norm = nn.Sequential(BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.fc = nn.Linear(inputs, num_classes)
        kaiming(self.modules())

    def features(self, images: Tensor) -> Tensor:
        """The last map [batch, 64 k, h / 4, w / 4] of normalised images [batch, 3, h, w]."""
        x = self.conv(images)
        for group in self.groups:
            x = group(x)
        return self.norm(x)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores [batch, classes]."""
        return self.fc(self.features(images).mean(dim=(2, 3)))


class PreActivationBlock(nn.Module):
    """Normalisation and ReLU before each of two 3x3 convolutions, around an identity."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, dropout: float):
        super().__init__()
        self.pre = nn.Sequential(BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        changes = inputs != outputs or stride != 1
        self.projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.pre(x)
        identity = x if self.projection is None else self.projection(activated)
        return identity + self.body(activated)


def wide_resnet(*, depth: int, widen: int, num_classes: int, dropout: float = 0.0) -> WideResNet:
    """WRN-depth-widen.

    Raises:
        ValueError: the depth is not 6 n + 4.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"WRN-{depth}-{widen}: the depth must be 6 n + 4, such as 16, 28 or 40")
    return WideResNet(num_classes=num_classes, blocks=(depth - 4) // 6, widen=widen, dropout=dropout)


def resnet110(*, num_classes: int) -> WideResNet:
    """The pre-activation ResNet-110 of three groups of 18 blocks."""
    return WideResNet(num_classes=num_classes, blocks=18)
