"""The cost of networks against counts by hand."""

import pytest
import torch
from torch import nn

from pipeline.commands import models as command
from pipeline.errors import UserError
from pipeline.models import ARCHITECTURES, CLASSIFIERS, configure
from pipeline.models.config import ModelConfig
from pipeline.models.detection import DETECTORS
from pipeline.models.layers import SegmentationOutput
from pipeline.models.profile import Profile, profile


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
    # The image, for the gradient of the first weights, and the output of the ReLU, for the ReLU and the second weights.
    assert cost.activation_bytes == 4 * (64 * 32 * 3 // 2 + 32 * 16 * 8)


def test_vgg_has_its_known_operations() -> None:
    """VGG16's convolutions take 15.35 G operations at 224x224; fc6, fc7 and the scores of 7x7 units come on top."""
    cost = profile(configure("fcn32s", {}), num_classes=21, size=(224, 224))
    heads = 49 * (512 * 49 * 4096 + 4096 * 4096 + 4096 * 21)
    assert round((cost.macs - heads) / 1e9, 2) == 15.35


@pytest.mark.parametrize("config", {type(config): config for config in (ARCHITECTURES | CLASSIFIERS).values()}.values())
def test_every_kind_of_network_has_a_cost(config: ModelConfig) -> None:
    cost = profile(config, size=(64, 64))
    assert cost.parameters > 1e6
    assert cost.macs > 1e6
    assert cost.activation_bytes > 5e5


def test_the_job_lists_every_architecture(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cost = Profile(parameters=31_040_000, output_stride=8, macs=2_500_000_000, activation_bytes=3 * 2**20)
    monkeypatch.setattr("pipeline.models.profile.profile", lambda config, **options: cost)
    command.main(["--size", "64,64", "--markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[2:]] == [*ARCHITECTURES, *CLASSIFIERS, *DETECTORS]
    assert lines[0].startswith("| name")
    (rcnn,) = (line for line in lines if line.startswith("| rcnn_alexnet "))
    assert [cell.strip() for cell in rcnn.strip("|").split("|")][2:] == ["57.09 M", "–", "–", "–"]
    (unet,) = (line for line in lines if line.startswith("| unet "))
    cells = [cell.strip() for cell in unet.strip("|").split("|")]
    assert cells == ["unet", "Ronneberger, Fischer & Brox, MICCAI 2015", "31.04 M", "2.5", "8", "3 MiB"]


def test_the_job_lists_the_models_that_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = Profile(parameters=1, output_stride=8, macs=1, activation_bytes=1)
    monkeypatch.setattr("pipeline.models.profile.profile", lambda config, **options: cost)
    command.main(["frrn", "--size", "64,64", "faster_rcnn"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["frrn_a", "frrn_b", "faster_rcnn"]
    with pytest.raises(UserError, match=r"^no model is named 'fron_a'; did you mean frrn_a\?$"):
        command.main(["frrn", "fron_a"])
