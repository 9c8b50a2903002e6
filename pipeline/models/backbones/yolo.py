"""The convolutions of YOLO, full and fast.

Redmon, Divvala, Girshick & Farhadi, "You Only Look Once: Unified, Real-Time Object Detection", CVPR 2016, figure 3.

    full   24 convolutions of which 20 are trained as a classifier first; 1x1 ones reduce the channels before 3x3 ones
    fast    9 convolutions of which 7 are trained as a classifier first; the paper gives only their number, so these
            are those of the released configuration

All activations are leaky (0.1). The output stride is 64 (full, as a classifier: 32). The modules have the same places
in a classifier and in a detector, so the weights of one load into the other key for key.

`batch_norm` adds batch normalisation after each convolution, which the paper does not have, for training from scratch.
"""

from typing import Literal

from torch import nn

from pipeline.models.layers import BatchNorm2d, scaled

Variant = Literal["full", "fast"]
# channels, kernel, stride of a convolution; "pool" halves the map
Layer = tuple[int, int, int] | Literal["pool"]
CLASSIFIED: dict[Variant, tuple[Layer, ...]] = {
    "full": (
        *((64, 7, 2), "pool", (192, 3, 1), "pool"),
        *((128, 1, 1), (256, 3, 1), (256, 1, 1), (512, 3, 1), "pool"),
        *((256, 1, 1), (512, 3, 1)) * 4,
        *((512, 1, 1), (1024, 3, 1), "pool"),
        *((512, 1, 1), (1024, 3, 1)) * 2,
    ),
    "fast": (
        *((16, 3, 1), "pool", (32, 3, 1), "pool", (64, 3, 1), "pool", (128, 3, 1), "pool", (256, 3, 1), "pool"),
        *((512, 3, 1), "pool", (1024, 3, 1)),
    ),
}
ADDED: dict[Variant, tuple[Layer, ...]] = {
    "full": ((1024, 3, 1), (1024, 3, 2), (1024, 3, 1), (1024, 3, 1)),
    "fast": ((1024, 3, 1), (1024, 3, 1)),
}
SLOPE = 0.1


def convolutions(variant: Variant, *, detection: bool, width: float, batch_norm: bool) -> tuple[nn.Sequential, int]:
    """Return the convolutions with fresh weights, and the number of channels of their output.

    Args:
        variant: "full" or "fast".
        detection: Whether the convolutions that the paper adds for detection follow those of the classifier.
        width: Factor by which every layer's channels are multiplied.
        batch_norm: Whether batch normalisation follows each convolution.
    """
    modules: list[nn.Module] = []
    channels = 3
    for layer in CLASSIFIED[variant] + (ADDED[variant] if detection else ()):
        if layer == "pool":
            modules.append(nn.MaxPool2d(2))
            continue
        base, kernel, stride = layer
        outputs = scaled(base, width)
        modules.append(nn.Conv2d(channels, outputs, kernel, stride=stride, padding=kernel // 2, bias=not batch_norm))
        modules += [BatchNorm2d(outputs)] if batch_norm else []
        modules.append(nn.LeakyReLU(SLOPE, inplace=True))
        channels = outputs
    network = nn.Sequential(*modules)
    initialise(network)
    return network, channels


def initialise(network: nn.Module) -> None:
    """Give the layers of a network weights that keep the variance through leaky activations."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, a=SLOPE, nonlinearity="leaky_relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
