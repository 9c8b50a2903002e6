r"""U-Net.

Ronneberger, Fischer & Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015.

    572 -> 64, 64 ---------------------------- crop, concatenate -----------------------------> 64, 64 -> scores 388
             \ pool  128, 128 ---------------- crop, concatenate ---------------> 128, 128 / up-conv 2x2
                  \ pool  256, 256 ----------- crop, concatenate -----> 256, 256 / up-conv
                       \ pool  512, 512 ------ crop, concat. -> 512, 512 / up-conv
                            \ pool  1024, 1024, dropout / up-conv

What it introduced: a decoder as wide as the encoder, to which the encoder's maps are concatenated; convolutions
without padding, so that every score has its whole context; and the overlap-tile strategy, which this allows: an image
of any size is segmented in tiles that fit together without a seam, with mirrored context beyond its border. The loss
gives narrow gaps between cells a larger weight (`pipeline.training.segmentation.losses.border_weights`).

Two variants:
    valid   As in the paper: 3x3 convolutions without padding or batch normalisation, and cropped skips. The network
            adds 92 pixels of mirrored context, so the scores cover the image; `overlap_tile` works in tiles.
    same    As is usual today: padded convolutions with batch normalisation, without dropout. Images are padded to a
            multiple of 16 by replicating the border.

Parameters at 2 classes: 31,031,810 (valid; 1,152 of them because images have three channels, not the paper's one),
31,037,698 (same). Output stride 1.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
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

CHANNELS = (64, 128, 256, 512, 1024)  # channels of the levels
STEP = 16  # stride of the deepest map, after four poolings
CONTEXT = 92  # pixels that the unpadded convolutions remove on each side


class UNetConfig(ModelConfig):
    """Configuration of U-Net."""

    paper: ClassVar[str] = "Ronneberger, Fischer & Brox, MICCAI 2015"

    variant: Literal["valid", "same"] = Field(
        default="same",
        description='"valid" (the paper\'s unpadded convolutions) or "same" (padded, with batch normalisation)',
    )

    def build(self, num_classes: int) -> "UNet":
        """Return a U-Net with fresh weights."""
        return UNet(self, num_classes=num_classes)


class UNet(nn.Module):
    """U-Net in one of its two variants."""

    output_stride = 1

    def __init__(self, config: UNetConfig, *, num_classes: int):
        super().__init__()
        self._valid = config.variant == "valid"
        channels = [scaled(n, config.width) for n in CHANNELS]
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
        """Return the scores of normalised images [batch, 3, height, width] of any size from 1x1."""
        height, width = images.shape[-2:]
        if self._valid:
            padded = mirror_pad(images, CONTEXT, CONTEXT + _excess(height), CONTEXT, CONTEXT + _excess(width))
        else:
            padded = pad_to_multiple(images, STEP)
        return SegmentationOutput(crop_to(self.score_padded(padded), (height, width)))

    def score_padded(self, x: Tensor) -> Tensor:
        """Return the scores of images that already have their padding or context.

        This is the paper's network itself: the variant "valid" maps 572x572 to 388x388.
        """
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
    """Return the scores of images computed tile by tile (section 2 and figure 2).

    They equal the scores of the whole image and need less memory.

    Args:
        network: U-Net of the variant "valid" in eval mode.
        images: Normalised images [batch, 3, height, width].
        tile: Side of a tile of scores, 4 more than a multiple of 16; 388 needs inputs of 572.

    Returns:
        Scores [batch, classes, height, width].

    Raises:
        ValueError: The tile has another side, so units of the deepest map would lie on other pixels in each tile.
    """
    if _excess(tile) or tile < 1:
        raise ValueError(f"tile {tile}: the side of the network's scores is 16 n + 4, such as 388")
    height, width = images.shape[-2:]
    step = tile - 4  # a multiple of 16, so that the pooling windows are those of the whole image
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
    """Return the number of pixels by which the smallest side 16 m + 4 of the valid network's scores exceeds n."""
    return (4 - n) % STEP


def _centre(x: Tensor, like: Tensor) -> Tensor:
    """Return the centre of `x` with the height and width of `like`."""
    top, left = ((a - b) // 2 for a, b in zip(x.shape[-2:], like.shape[-2:], strict=True))
    return x[..., top : top + like.shape[-2], left : left + like.shape[-1]]
