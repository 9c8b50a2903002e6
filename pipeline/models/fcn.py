"""FCN-32s, FCN-16s and FCN-8s on VGG16.

Long, Shelhamer & Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015; PAMI 2017.

    image -> VGG16 -> pool5 -> fc6 7x7, 4096 -> fc7 1x1, 4096 -> score 1x1 --------------------> x32   FCN-32s
                  \\-> pool4 -> score 1x1 ----------------------------(+)<- x2 ---------------> x16   FCN-16s
                   \\-> pool3 -> score 1x1 ------------------------------(+)<- x2 ------------> x8    FCN-8s

What it introduced: a classifier's fully connected layers are convolutions (see `convolutionalize`), so the whole
image is scored at once; score maps of several depths are fused by sums, coarse to fine, x2 at a time; the way back
to pixels is a transposed convolution that interpolates. The first layer becomes a 7x7 convolution, not a 1x1 one.

Staged training (PAMI section 4.3): FCN-16s starts from a trained FCN-32s (`--weights` of its bundle), FCN-8s from
FCN-16s; score layers of the skips start at zero, so the finer network starts as the coarser one. At once:
`at_once=true` scales pool4 by 0.01 and pool3 by 0.0001, which tames the gradients of a single stage.

Two geometries:
    plain   fc6 is padded by 3, a map lies on its image without crops; the x2 steps learn, channel by channel,
            from interpolation; the last interpolation is left to `upsample`. Output stride 32, 16 or 8.
    paper   the authors' net: the image is padded by 100 in conv1_1, fc6 by nothing, interpolations are fixed
            transposed convolutions without padding, and crops (19; 5, 27; 5, 9, 31) put the maps back onto the
            image. Output stride 1.

Parameters at 21 classes: 134,346,581 (32s), 134,357,690 (16s), 134,363,423 (8s); 136.15, 134.82 and 134.49 M in
the released nets, which store each interpolation as a full kernel of 21 x 21 channels, zero off the diagonal.

Deviation: dropout leaves out whole channels of fc6 and fc7.
"""

from typing import ClassVar, Literal

from torch import Tensor, nn

from pipeline.models.backbones.vgg import VGG16
from pipeline.models.config import ModelConfig
from pipeline.models.layers import SegmentationOutput, kaiming, scaled, zero
from pipeline.models.upsampling import bilinear_deconvolution

Geometry = Literal["plain", "paper"]
AT_ONCE_SCALES = (0.01, 0.0001)  # of pool4 and pool3
SKIP_CROPS = (5, 9)  # of the scores of pool4 and pool3, which are larger than the padded image's coarser maps
FINAL_CROPS = {32: 19, 16: 27, 8: 31}


class FCNConfig(ModelConfig):
    """`stride`: 32, 16 or 8, of the finest map that is scored. `geometry`: plain or the paper's. `at_once`: scale
    the skips for training in one stage."""

    paper: ClassVar[str] = "Long, Shelhamer & Darrell, CVPR 2015"

    stride: Literal[32, 16, 8] = 8
    geometry: Geometry = "plain"
    at_once: bool = False

    def build(self, num_classes: int) -> "FCN":
        return FCN(num_classes=num_classes, **self.model_dump())


class FCN(nn.Module):
    """FCN on VGG16; see the module's text.

    Args:
        num_classes: channels of the score maps.
        stride: 32, 16 or 8, of the finest map that is scored.
        geometry: "plain" or "paper".
        at_once: scale the skips as for training in one stage.
        width: multiplies every layer's channels.
    """

    # torchvision's name of a fully connected layer: the convolution that it becomes.
    pretrained_layers: ClassVar[dict[str, str]] = {"classifier.0": "fc6", "classifier.3": "fc7"}

    def __init__(
        self,
        *,
        num_classes: int,
        stride: Literal[32, 16, 8] = 8,
        geometry: Geometry = "plain",
        at_once: bool = False,
        width: float = 1.0,
    ):
        super().__init__()
        self._stride = stride
        self._paper = geometry == "paper"
        self._scales = AT_ONCE_SCALES if at_once else (1.0, 1.0)
        self.output_stride = 1 if self._paper else stride
        self.backbone = VGG16(width=width, input_padding=100 if self._paper else 1)
        hidden = scaled(4096, width)
        self.fc6 = nn.Conv2d(self.backbone.channels[4], hidden, 7, padding=0 if self._paper else 3)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(0.5)
        kaiming((self.fc6, self.fc7), mode="fan_in")
        self.score = zero(nn.Conv2d(hidden, num_classes, 1))
        if stride <= 16:
            self.score_pool4 = zero(nn.Conv2d(self.backbone.channels[3], num_classes, 1))
            self.upscore_pool5 = self._interpolation(num_classes, 2)
        if stride <= 8:
            self.score_pool3 = zero(nn.Conv2d(self.backbone.channels[2], num_classes, 1))
            self.upscore_pool4 = self._interpolation(num_classes, 2)
        if self._paper:
            self.upscore = self._interpolation(num_classes, stride)

    def _interpolation(self, channels: int, factor: int) -> nn.ConvTranspose2d:
        if not self._paper:
            return bilinear_deconvolution(channels, factor)
        return bilinear_deconvolution(channels, factor, padding=0).requires_grad_(False)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Scores of normalised images [batch, 3, height, width], any size from 1x1."""
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
        """Plain: the doubled map may reach a unit beyond the finer one. Paper: the finer one is the larger."""
        return coarse + crop(fine, offset, coarse) if self._paper else crop(coarse, 0, fine) + fine


def crop(x: Tensor, offset: int, like: Tensor) -> Tensor:
    """The part of x, from `offset` on, that has the height and width of another map."""
    return x[..., offset : offset + like.shape[-2], offset : offset + like.shape[-1]]
