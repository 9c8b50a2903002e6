"""Every architecture learns eight pictures by heart, together with the loss and the upsampling."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.metrics.segmentation import confusion
from pipeline.models.layers import SegmentationOutput
from pipeline.models.upsampling import upsample
from pipeline.training.onednn import avoid_overflow
from pipeline.training.segmentation.config import SegmentationLoss
from pipeline.training.segmentation.losses import segmentation_loss
from tests.support.networks import narrow

COLOURS = 2 * torch.tensor([[1.0, -1, 0], [0, 1, -1], [-1, 0, 1]])
CELLS = torch.tensor([[0, 1], [1, 2], [2, 0], [1, 0], [2, 1], [0, 2], [0, 0], [2, 2]])
# Training ends as soon as the pictures are learned: with other seeds after 7 to 60 steps, with SegNet after up to 112.
# Its course depends on the rounding of the processor, as on the seed, so the limit is several times as high.
STEPS = 400
# Rates at which training takes the fewest steps; the other networks have 0.003.
LEARNING_RATES = {"fcn32s": 0.0005, "sliding_window_alexnet": 0.0005, "deeplabv2_vgg16": 0.001, "segnet": 0.005}
# One network for each kind of layer and each geometry; the others differ in numbers only, or in a backbone that another
# one has. DeconvNet, which sees at least 224 pixels, takes minutes.
NAMES = [
    *("sliding_window_alexnet", "fcn32s", "fcn8s", "deeplabv1_msc_largefov", "deeplabv2_vgg16", "deeplabv3_resnet18"),
    *("segnet", "segnet_basic", "unet", "unet_valid", "fusionnet", "deep_contextual", "frrn_a", "pspnet_resnet50"),
]


def pictures(side: int) -> tuple[Tensor, Tensor]:
    """Return normalised images [8, 3, side, side] of two noisy fields each, whose colours are their labels."""
    labels = CELLS[:, None].repeat_interleave(side, 1).repeat_interleave(side // 2, 2)
    return COLOURS[labels].permute(0, 3, 1, 2) + 0.1 * torch.randn(8, 3, side, side), labels


def miou(output: SegmentationOutput, labels: Tensor, stride: int) -> float:
    size = (labels.shape[1], labels.shape[2])
    predicted = upsample(output.logits, size, stride=stride).argmax(1)
    return confusion(labels.numpy(), predicted.numpy(), num_classes=3, ignore_index=255).scores.miou


@pytest.mark.parametrize("name", NAMES)
def test_overfits_eight_pictures(name: str) -> None:
    torch.manual_seed(0)
    options = {"dense": True} if name.startswith("sliding") else {}
    model = narrow(name, num_classes=3, **options)
    avoid_overflow(model)
    images, labels = pictures(2 * max(model.output_stride, 16))  # at least one unit for each field
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5  # so that the averages follow within a few steps
        elif isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATES.get(name, 0.003))
    reached = 0.0
    for _ in range(STEPS):
        model.train()
        output = model(images)
        loss = segmentation_loss(
            output,
            labels,
            loss=SegmentationLoss(),
            ignore_index=255,
            stride=model.output_stride,
            auxiliary_weight=0.4,
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if miou(output, labels, model.output_stride) > 0.95:
            with torch.inference_mode():
                reached = miou(model.eval()(images), labels, model.output_stride)
            if reached > 0.95:
                break
    assert reached > 0.95
