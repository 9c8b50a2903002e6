"""U-Net.

Ronneberger, Fischer & Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015.

    572 -> 64, 64 ---------------------------- crop, concatenate -----------------------------> 64, 64 -> scores 388
             \\ pool  128, 128 ---------------- crop, concatenate ---------------> 128, 128 / up-conv 2x2
                  \\ pool  256, 256 ----------- crop, concatenate -----> 256, 256 / up-conv
                       \\ pool  512, 512 ------ crop, concat. -> 512, 512 / up-conv
                            \\ pool  1024, 1024, dropout / up-conv

What it introduced: a decoder as wide as the encoder, which gets the encoder's maps themselves by concatenation;
convolutions without padding, so that every score has its whole context, and the overlap-tile strategy that this
allows: an image of any size is done in tiles that fit together without a seam, the context beyond its border being
mirrored. The loss weighs narrow gaps between cells (`pipeline.training.segmentation.losses.border_weights`).

Two variants:
    valid   the paper's: 3x3 convolutions without padding or batch normalisation, skips cropped. The network mirrors
            92 pixels of context itself, so scores cover the image; `overlap_tile` does it in tiles.
    same    the usual one of today: padded convolutions with batch normalisation, without dropout; images are continued
            to a multiple of 16.

Parameters at 2 classes: 31,031,810 (valid; 1,152 of them because images have three channels, not the paper's one),
31,037,698 (same). Output stride 1.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pipeline.models.config import ModelConfig
from pipeline.models.layers import (
    SegmentationOutput,
    conv_bn_relu,
    crop_to,
    kaiming,
    mirror_pad,
    pad_to_multiple,
    scaled,
)

CHANNELS = (64, 128, 256, 512, 1024)
STEP = 16  # four poolings
CONTEXT = 92  # pixels on each side that the valid convolutions use up


class UNetConfig(ModelConfig):
    """`variant`: valid (the paper's) or same (padded convolutions with batch normalisation)."""

    paper: ClassVar[str] = "Ronneberger, Fischer & Brox, MICCAI 2015"

    variant: Literal["valid", "same"] = "same"

    def build(self, num_classes: int) -> "UNet":
        return UNet(num_classes=num_classes, variant=self.variant, width=self.width)


class UNet(nn.Module):
    """U-Net; see the module's text.

    Args:
        num_classes: channels of the score maps.
        variant: "valid" or "same".
        width: multiplies every layer's channels.
    """

    output_stride = 1

    def __init__(self, *, num_classes: int, variant: Literal["valid", "same"] = "same", width: float = 1.0):
        super().__init__()
        self._valid = variant == "valid"
        channels = [scaled(n, width) for n in CHANNELS]
        self.encoder = nn.ModuleList(
            self._double(inputs, outputs) for inputs, outputs in zip([3, *channels], channels, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(0.5 if self._valid else 0.0)
        deep, shallow = channels[:0:-1], channels[-2::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in zip(deep, shallow, strict=True))
        self.decoder = nn.ModuleList(self._double(2 * n, n) for n in shallow)
        self.score = nn.Conv2d(channels[0], num_classes, 1)
        kaiming(self.modules(), mode="fan_in")

    def _double(self, inputs: int, outputs: int) -> nn.Sequential:
        if not self._valid:
            return nn.Sequential(*conv_bn_relu(inputs, outputs, 3), *conv_bn_relu(outputs, outputs, 3))
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3), nn.ReLU(inplace=True), nn.Conv2d(outputs, outputs, 3), nn.ReLU(inplace=True)
        )

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Scores of normalised images [batch, 3, height, width], any size from 1x1."""
        height, width = images.shape[-2:]
        if self._valid:
            padded = mirror_pad(images, CONTEXT, CONTEXT + _excess(height), CONTEXT, CONTEXT + _excess(width))
        else:
            padded = pad_to_multiple(images, STEP)
        return SegmentationOutput(crop_to(self.score_padded(padded), (height, width)))

    def score_padded(self, x: Tensor) -> Tensor:
        """Scores of an image that has its context already: the paper's network itself, 572x572 to 388x388 if valid."""
        skips = []
        for level, stage in enumerate(self.encoder):
            x = stage(self.pool(x) if level else x)
            if level >= len(self.encoder) - 2:
                x = self.dropout(x)
            skips.append(x)
        for up, stage, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            x = up(x)
            x = stage(torch.cat([_centre(skip, x), x], dim=1))
        return self.score(x)


def overlap_tile(network: UNet, images: Tensor, *, tile: int = 388) -> Tensor:
    """Scores of an image in tiles (section 2 and figure 2), equal to those of the image as one, in less memory.

    Args:
        network: the valid variant, in eval mode.
        images: normalised, [batch, 3, height, width].
        tile: side of the scores of a tile, 4 more than a multiple of 16 (388 has inputs of 572).

    Returns:
        [batch, classes, height, width].

    Raises:
        ValueError: a tile of another side. Units of the deepest map then lie on other pixels in each tile.
    """
    if _excess(tile) or tile < 1:
        raise ValueError(f"tile {tile}: the network gives scores of side 16 n + 4, such as 388")
    height, width = images.shape[-2:]
    step = tile - 4  # tiles start at multiples of 16, so pooling windows are those of the whole image
    rows, columns = (max(0, -(-(n - tile) // step)) for n in (height, width))
    bottom, right = rows * step + tile - height, columns * step + tile - width
    padded = mirror_pad(images, CONTEXT, CONTEXT + bottom, CONTEXT, CONTEXT + right)
    scores: Tensor | None = None
    for top in range(0, rows * step + 1, step):
        for left in range(0, columns * step + 1, step):
            window = padded[..., top : top + tile + 2 * CONTEXT, left : left + tile + 2 * CONTEXT]
            part = crop_to(network.score_padded(window), (height - top, width - left))
            if scores is None:
                scores = part.new_empty(*part.shape[:2], height, width)
            scores[..., top : top + tile, left : left + tile] = part
    assert scores is not None
    return scores


def _excess(n: int) -> int:
    """How many more pixels than n the valid network scores at least: it gives 16 m + 4."""
    return (4 - n) % STEP


def _centre(x: Tensor, like: Tensor) -> Tensor:
    """The middle of x, of the other map's size."""
    top, left = ((a - b) // 2 for a, b in zip(x.shape[-2:], like.shape[-2:], strict=True))
    return x[..., top : top + like.shape[-2], left : left + like.shape[-1]]
