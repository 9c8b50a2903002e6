"""The classifiers that YOLO's detectors start from.

Redmon, Divvala, Girshick & Farhadi, "You Only Look Once: Unified, Real-Time Object Detection", CVPR 2016, section 2.2:
the first 20 convolutions of the detector, average pooling and a fully connected layer are trained on ImageNet at 224
pixels; the detector then looks at 448 pixels. `--weights` of a detector takes the bundle of such a classifier.

    full   20 convolutions -> 7x7, 1024 at 224 pixels -> mean -> scores     23.4 M parameters at 1000 classes
    fast    7 convolutions -> 3x3, 1024               -> mean -> scores      7.3 M

Scores are linear in the mean of the map, so these are also networks with class activation maps (Zhou et al., CVPR
2016), though of a coarse resolution.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from pipeline.models.backbones.yolo import Variant, convolutions
from pipeline.models.cam_classifier import ClassifierOutput, Pooling, pooled
from pipeline.models.config import ModelConfig, ModelTask


class YOLOClassifierConfig(ModelConfig):
    """Configuration of a classifier with the convolutions of YOLO."""

    paper: ClassVar[str] = "Redmon, Divvala, Girshick & Farhadi, CVPR 2016"
    task: ClassVar[ModelTask] = "classification"

    variant: Variant = Field(default="full", description='20 convolutions ("full") or 7 ("fast")')
    batch_norm: bool = Field(
        default=False,
        description="batch normalisation after each convolution, which the detector must have too; not in the paper",
    )
    pooling: Pooling = Field(default="gap", description='"gap" (global average) or "gmp" (global maximum)')

    def build(self, num_classes: int) -> "YOLOClassifier":
        """Return a classifier with fresh weights."""
        return YOLOClassifier(self, num_classes=num_classes)


class YOLOClassifier(nn.Module):
    """The first convolutions of YOLO, global pooling and one linear layer."""

    def __init__(self, config: YOLOClassifierConfig, *, num_classes: int):
        super().__init__()
        self.output_stride = 64 if config.variant == "fast" else 32
        self.pooling = config.pooling
        self.features, channels = convolutions(
            config.variant, detection=False, width=config.width, batch_norm=config.batch_norm
        )
        self.fc = nn.Linear(channels, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Return the scores of normalised images [batch, 3, height, width] of any size from 64x64."""
        features = self.features(images)
        return ClassifierOutput(self.fc(pooled(features, self.pooling)), features)
