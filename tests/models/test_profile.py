"""What a network costs, against counts by hand."""

import torch
from torch import nn

from pipeline.models import ARCHITECTURES, CLASSIFIERS, configure
from pipeline.models.config import ModelConfig
from pipeline.models.layers import SegmentationOutput
from pipeline.models.profile import profile
from tests.support.jobs import succeed


class TwoConvolutions(nn.Module):
    output_stride = 2

    def __init__(self, num_classes: int):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: torch.Tensor) -> SegmentationOutput:
        return SegmentationOutput(self.second(self.first(images).relu()))


class TwoConvolutionsConfig(ModelConfig):
    def build(self, num_classes: int) -> nn.Module:
        return TwoConvolutions(num_classes)


def test_costs_by_hand() -> None:
    cost = profile(TwoConvolutionsConfig(), num_classes=5, size=(64, 32))
    assert cost.parameters == 3 * 9 * 8 + 8 + 8 * 5 + 5
    assert cost.output_stride == 2
    assert cost.macs == 32 * 16 * (3 * 9 * 8 + 8 * 5)
    # The image (for the first weights), and the ReLU's result (for itself and the second weights).
    assert cost.activation_bytes == 4 * (64 * 32 * 3 // 2 + 32 * 16 * 8)


def test_vgg_has_its_known_operations() -> None:
    """VGG16's convolutions take 15.35 G at 224x224; fc6 and fc7 at 7x7 positions come on top."""
    cost = profile(configure("fcn32s", {}), num_classes=21, size=(224, 224))
    heads = 49 * (512 * 49 * 4096 + 4096 * 4096 + 4096 * 21)
    assert round((cost.macs - heads) / 1e9, 2) == 15.35


def test_the_job_lists_every_architecture() -> None:
    text = succeed("models", size="64,64", markdown=True)
    lines = text.splitlines()
    assert [line.split()[1] for line in lines[2:]] == [*ARCHITECTURES, *CLASSIFIERS]
    assert lines[0].startswith("| name")
    (unet,) = (line for line in lines if line.startswith("| unet "))
    assert "Ronneberger" in unet
    assert "31.04 M" in unet
