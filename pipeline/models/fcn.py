r"""FCN-32s, FCN-16s and FCN-8s on VGG16.

Long, Shelhamer & Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015; PAMI 2017.

    image -> VGG16 -> pool5 -> fc6 7x7, 4096 -> fc7 1x1, 4096 -> score 1x1 --------------------> x32   FCN-32s
                  \-> pool4 -> score 1x1 ----------------------------(+)<- x2 ---------------> x16   FCN-16s
                   \-> pool3 -> score 1x1 ------------------------------(+)<- x2 ------------> x8    FCN-8s

What it introduced: the fully connected layers of a classifier become convolutions (see `convolutionalize`), so one
pass scores the whole image; score maps from several depths are summed, from coarse to fine, x2 at a time; a
transposed convolution initialised to bilinear interpolation restores the resolution. The first fully connected layer
becomes a 7x7 convolution, not a 1x1 convolution.

Staged training (PAMI section 4.3): FCN-16s starts from a trained FCN-32s (`--weights` with its bundle) and FCN-8s
from an FCN-16s. The score layers of the skips start at zero, so the finer network starts with the scores of the
coarser one. The alternative is training all skips at once: `at_once=true` scales pool4 by 0.01 and pool3 by 0.0001,
which keeps their gradients small enough for a single stage.

Two geometries:
    plain   fc6 is padded by 3, so every map is aligned with the image without crops. The x2 upsampling layers work
            on each channel separately and are learned; the last interpolation is left to `upsample`.
            Output stride 32, 16 or 8.
    paper   As in the authors' network: conv1_1 pads the image by 100 pixels, fc6 has no padding, the upsampling
            layers are fixed bilinear interpolations without padding, and crops (19; 5, 27; 5, 9, 31) align the maps
            with the image. Output stride 1.

Parameters at 21 classes: 134,346,581 (32s), 134,357,690 (16s), 134,363,423 (8s). The released networks have 136.15,
134.82 and 134.49 M, because they store each interpolation as a full kernel of 21 x 21 channels that is zero off the
diagonal.

Deviation: dropout drops whole channels of fc6 and fc7.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from pipeline.models.backbones.vgg import VGG16
from pipeline.models.config import ModelConfig
from pipeline.models.layers import SegmentationOutput, kaiming, scaled, zero
from pipeline.models.upsampling import bilinear_deconvolution

Geometry = Literal["plain", "paper"]
AT_ONCE_SCALES = (0.01, 0.0001)  # pool4, pool3
SKIP_CROPS = (5, 9)  # scores of pool4 and pool3, which are larger than the upsampled coarser scores
FINAL_CROPS = {32: 19, 16: 27, 8: 31}


class FCNConfig(ModelConfig):
    """Configuration of FCN."""

    paper: ClassVar[str] = "Long, Shelhamer & Darrell, CVPR 2015"

    stride: Literal[32, 16, 8] = Field(
        default=8, description="stride of the finest feature map that is scored, in pixels: 32, 16 or 8"
    )
    geometry: Geometry = Field(
        default="plain",
        description='alignment of score maps and image: "plain" pads fc6; "paper" pads the image by 100 and crops',
    )
    at_once: bool = Field(
        default=False, description="scale pool4 by 0.01 and pool3 by 0.0001, to train all skips in a single stage"
    )

    def build(self, num_classes: int) -> "FCN":
        """Return an FCN with fresh weights."""
        return FCN(self, num_classes=num_classes)


class FCN(nn.Module):
    """Fully convolutional network on VGG16."""

    # The convolutions that take the weights of torchvision's fully connected layers.
    pretrained_layers: ClassVar[dict[str, str]] = {"classifier.0": "fc6", "classifier.3": "fc7"}

    def __init__(self, config: FCNConfig, *, num_classes: int):
        super().__init__()
        self._stride = config.stride
        self._paper = config.geometry == "paper"
        self._scales = AT_ONCE_SCALES if config.at_once else (1.0, 1.0)
        self.output_stride = 1 if self._paper else config.stride
        self.backbone = VGG16(width=config.width, input_padding=100 if self._paper else 1)
        hidden = scaled(4096, config.width)
        self.fc6 = nn.Conv2d(self.backbone.channels[4], hidden, 7, padding=0 if self._paper else 3)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(0.5)
        kaiming((self.fc6, self.fc7), mode="fan_in")
        self.score = zero(nn.Conv2d(hidden, num_classes, 1))
        if config.stride <= 16:
            self.score_pool4 = zero(nn.Conv2d(self.backbone.channels[3], num_classes, 1))
            self.upscore_pool5 = self._interpolation(num_classes, 2)
        if config.stride <= 8:
            self.score_pool3 = zero(nn.Conv2d(self.backbone.channels[2], num_classes, 1))
            self.upscore_pool4 = self._interpolation(num_classes, 2)
        if self._paper:
            self.upscore = self._interpolation(num_classes, config.stride)

    def _interpolation(self, channels: int, factor: int) -> nn.ConvTranspose2d:
        if not self._paper:
            return bilinear_deconvolution(channels, factor)
        return bilinear_deconvolution(channels, factor, padding=0).requires_grad_(False)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the scores of normalised images [batch, 3, height, width] of any size from 1x1."""
        features = self.backbone(images)
        x = self.dropout(self.relu(self.fc6(features.pool5)))
        x = self.dropout(self.relu(self.fc7(x)))
        x = self.score(x)
        if self._stride <= 16:
            x = self._fuse(self.upscore_pool5(x), self.score_pool4(features.pool4 * self._scales[0]), SKIP_CROPS[0])
        if self._stride <= 8:
            x = self._fuse(self.upscore_pool4(x), self.score_pool3(features.pool3 * self._scales[1]), SKIP_CROPS[1])
        if self._paper:
            x = crop(self.upscore(x), FINAL_CROPS[self._stride], images)
        return SegmentationOutput(x)

    def _fuse(self, coarse: Tensor, fine: Tensor, offset: int) -> Tensor:
        """Return the sum of two score maps after cropping the larger.

        In the plain geometry the upsampled coarse map can be one unit larger; in the paper's, the fine map is larger.
        """
        return coarse + crop(fine, offset, coarse) if self._paper else crop(coarse, 0, fine) + fine


def crop(x: Tensor, offset: int, like: Tensor) -> Tensor:
    """Return the part of `x` that starts at row and column `offset` and has the height and width of `like`."""
    return x[..., offset : offset + like.shape[-2], offset : offset + like.shape[-1]]
