"""Pre-activation residual networks for small images: ResNet-110 and wide ResNets.

He, Zhang, Ren & Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016; Zagoruyko & Komodakis, "Wide Residual
Networks", BMVC 2016.

    conv 3x3, 16 -> n blocks of 16 k -> n blocks of 32 k (/2) -> n blocks of 64 k (/4) -> BN, ReLU -> mean -> scores

    block:  x + conv3x3( dropout( ReLU BN( conv3x3( ReLU BN x ))))

Batch normalisation and ReLU precede each convolution, so the identity path is clear from end to end, and the network
is a sum over paths of every length through its blocks (Veit, Wilber & Belongie, NIPS 2016). Only the first block of a
group, where channels or resolution change, has a 1x1 convolution in place of the identity.

    ResNet-110   n = 18, k = 1      1.74 M parameters at 10 classes
    WRN-d-k      n = (d - 4) / 6    WRN-28-10 36.48 M, WRN-40-4 8.95 M, WRN-16-8 10.96 M

The output stride is only 4, so there is nothing to gain from atrous convolution.
"""

from typing import ClassVar

from pydantic import Field, field_validator
from torch import Tensor, nn

from pipeline.models.cam_classifier import ClassifierOutput, Pooling, pooled
from pipeline.models.config import ModelConfig, ModelTask
from pipeline.models.layers import BatchNorm2d, ResidualBlock, kaiming, scaled

CHANNELS = (16, 32, 64)  # channels of the groups before widening


class WideResNetConfig(ModelConfig):
    """Configuration of a pre-activation residual network for small images."""

    paper: ClassVar[str] = "Zagoruyko & Komodakis; He et al., 2016"
    task: ClassVar[ModelTask] = "classification"

    depth: int = Field(
        default=28, ge=8, le=1300, description="number of layers: 6 n + 4, such as 28, or 6 n + 2, such as 110"
    )
    widen: int = Field(
        default=10, ge=1, le=100, description="factor k by which the channels of the groups are multiplied"
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="dropout probability inside the residual blocks; 0.3 in the paper"
    )
    pooling: Pooling = Field(default="gap", description='"gap" (global average) or "gmp" (global maximum)')

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, depth: int) -> int:
        if (depth - 4) % 6 and (depth - 2) % 6:
            raise ValueError("it must be 6 n + 4, such as 16, 28 or 40, or 6 n + 2, such as 110")
        return depth

    def build(self, num_classes: int) -> "WideResNet":
        """Return a residual network with fresh weights."""
        return WideResNet(self, num_classes=num_classes)


class WideResNet(nn.Module):
    """Classifier of small images, such as CIFAR's of 32x32 pixels."""

    output_stride = 4

    def __init__(self, config: WideResNetConfig, *, num_classes: int):
        super().__init__()
        self.pooling = config.pooling
        blocks = (config.depth - 2) // 6
        channels = [scaled(base, config.width) for base in CHANNELS]
        self.conv = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        inputs, groups = channels[0], []
        for i, base in enumerate(channels):
            outputs = base * config.widen
            group = []
            for j in range(blocks):
                stride = 2 if i and j == 0 else 1
                group.append(PreActivationBlock(inputs, outputs, stride=stride, dropout=config.dropout))
                inputs = outputs
            groups.append(nn.Sequential(*group))
        self.groups = nn.ModuleList(groups)
        self.norm = nn.Sequential(BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.fc = nn.Linear(inputs, num_classes)
        kaiming(self.modules())

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Return the scores and the last map [batch, 64 k, h / 4, w / 4] of normalised images [batch, 3, h, w]."""
        x = self.conv(images)
        for group in self.groups:
            x = group(x)
        features = self.norm(x)
        return ClassifierOutput(self.fc(pooled(features, self.pooling)), features)


class PreActivationBlock(ResidualBlock):
    """Two 3x3 convolutions, each after batch normalisation and ReLU, with an identity shortcut.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
        dropout: Dropout probability between the convolutions.
    """

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

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shortcut and the residual [batch, outputs, h / stride, w / stride] of a map."""
        activated = self.pre(x)
        return x if self.projection is None else self.projection(activated), self.body(activated)
