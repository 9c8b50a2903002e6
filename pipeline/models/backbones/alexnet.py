"""AlexNet, in the form that torchvision publishes.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014: the network of Krizhevsky,
Sutskever & Hinton, NIPS 2012, in a single column and without local response normalisation.

    conv1 11x11 /4, 64 | pool 3x3 /8 | conv2 5x5, 192 | pool /16 | conv3 384, conv4 256, conv5 256 | pool /32

With output stride 16 or 8, the last one or two pools keep the resolution and the layers after them get rates 2 and 4.
The state dict has torchvision's keys (`features`).
"""

from typing import Literal

from torch import Tensor, nn

from pipeline.models.layers import kaiming, scaled

# channels, kernel, stride, padding, whether a pool follows
CONVOLUTIONS = (
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)


class AlexNet(nn.Module):
    """AlexNet without its classifier.

    Args:
        width: Factor by which every layer's channels are multiplied.
        output_stride: Pixels of the image per unit of the last map: 8, 16 or 32.
        last_pool: Whether to build the pool after conv5.

    Attributes:
        channels: Channels of the map that `forward` returns.
        rate: Atrous rate for layers that follow.
    """

    def __init__(self, *, width: float = 1.0, output_stride: Literal[8, 16, 32] = 32, last_pool: bool = True):
        super().__init__()
        layers: list[nn.Module] = []
        inputs, total, rate = 3, 1, 1
        for base, kernel, stride, padding, pooled in CONVOLUTIONS:
            outputs = scaled(base, width)
            layers.append(nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding * rate, dilation=rate))
            layers.append(nn.ReLU(inplace=True))
            inputs, total = outputs, total * stride
            if pooled and total < output_stride:
                layers.append(nn.MaxPool2d(3, stride=2))
                total *= 2
            elif pooled:
                in_place = nn.MaxPool2d(3, stride=1, dilation=rate)
                layers.append(nn.Sequential(nn.ReplicationPad2d(rate), in_place))
                rate *= 2
        self.features = nn.Sequential(*(layers if last_pool else layers[:-1]))
        self.channels = inputs
        self.rate = rate
        kaiming(self.modules())

    def forward(self, images: Tensor) -> Tensor:
        """Return features [batch, channels, h, w] of normalised images [batch, 3, height, width] from 63x63."""
        return self.features(images)
