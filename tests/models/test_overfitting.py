"""Every architecture, loss and upsampling together learn: eight pictures, by heart, in a few steps."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.metrics.segmentation import confusion
from pipeline.models import ARCHITECTURES, configure
from pipeline.models.layers import SegmentationOutput
from pipeline.models.upsampling import upsample
from pipeline.training.config import Loss
from pipeline.training.segmentation.losses import segmentation_loss
from tests.support.networks import with_scores

COLOURS = 2 * torch.tensor([[1.0, -1, 0], [0, 1, -1], [-1, 0, 1]])
CELLS = torch.tensor([[0, 1], [1, 2], [2, 0], [1, 0], [2, 1], [0, 2], [0, 0], [2, 2]])
STEPS = 90
# Where 0.003 is too fast or too slow for these few steps.
LEARNING_RATES = {"deeplabv1_7x7": 0.001, "deeplabv1_4x4": 0.001, "segnet": 0.01}
# The same code in a smaller form is there; DeconvNet, which sees nothing smaller than 224 pixels, takes minutes.
LEFT_OUT = {
    *("deeplabv2_resnet101", "deeplabv3_resnet101", "pspnet_resnet101", "sliding_window_vgg16"),
    *("deconvnet", "deconvnet_fcn8s"),
}


def pictures(side: int) -> tuple[Tensor, Tensor]:
    """Normalised images [8, 3, side, side] of two fields each, with noise, and their labels: a class is a colour."""
    labels = CELLS[:, None].repeat_interleave(side, 1).repeat_interleave(side // 2, 2)
    return COLOURS[labels].permute(0, 3, 1, 2) + 0.1 * torch.randn(8, 3, side, side), labels


def miou(output: SegmentationOutput, labels: Tensor, stride: int) -> float:
    size = (labels.shape[1], labels.shape[2])
    predicted = upsample(output.logits, size, stride=stride).argmax(1)
    return confusion(labels.numpy(), predicted.numpy(), num_classes=3, ignore_index=255).scores.miou


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in LEFT_OUT])
def test_overfits_eight_pictures(name: str) -> None:
    torch.manual_seed(0)
    sliding = name.startswith("sliding")
    images, labels = pictures(64)
    model = with_scores(configure(name, {"width": 0.125} | ({"dense": True} if sliding else {})).build(3))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5  # the averages follow within the few steps
        elif isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATES.get(name, 0.003))
    reached = 0.0
    for _ in range(STEPS):
        model.train()
        output = model(images)
        told = {"ignore_index": 255, "stride": model.output_stride, "auxiliary_weight": 0.4}
        loss = segmentation_loss(output, labels, loss=Loss(), **told)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if miou(output, labels, model.output_stride) > 0.95:
            with torch.inference_mode():
                reached = miou(model.eval()(images), labels, model.output_stride)
            if reached > 0.95:
                break
    assert reached > 0.95
