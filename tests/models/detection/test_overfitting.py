"""Our detectors learn eight pictures by heart, together with sampling, losses, suppression and scores."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.metrics.detection import DetectionCounts, count_detections
from pipeline.metrics.matching import Detections, Truth
from pipeline.models.detection import configure_detector
from pipeline.models.detection.boxes import DetectorOutput
from pipeline.models.detection.detector import Target
from pipeline.training.onednn import avoid_overflow

SIDE = 128
COLOURS = torch.tensor([[2.0, -1, -1], [-1, 2, -1], [-1, -1, 2]])
# Training ends as soon as the pictures are learned; the limit is several times as high.
STEPS = 400
CASES: list[tuple[str, dict[str, Any]]] = [
    ("rcnn_alexnet", {"width": 0.125, "crop": 100, "regions": 32}),
    ("sppnet_alexnet", {"width": 0.125, "scales": (128, 256), "regions": 64}),
    ("fast_rcnn_alexnet", {"width": 0.125, "short_side": 192, "regions": 32}),
    ("fast_rcnn_vgg16", {"width": 0.125, "short_side": 128, "regions": 32}),
    ("yolo_fast", {"width": 0.125, "grid": 4, "batch_norm": True}),
]


def pictures() -> tuple[list[Tensor], list[Target], list[Tensor]]:
    """Return noisy pictures of coloured boxes, the boxes, and proposals of which some are near them."""
    rng = np.random.default_rng(0)
    images, targets, proposals = [], [], []
    for _ in range(8):
        image = 0.1 * torch.randn(3, SIDE, SIDE)
        boxes, labels = [], rng.integers(0, 3, rng.integers(1, 5))
        # At most one box in each quarter of the picture, so that no two boxes are in one cell of YOLO's grid.
        for quarter, label in zip(rng.permutation(4), labels, strict=False):
            (left, top), (width, height) = rng.integers(2, 20, 2), rng.integers(24, 44, 2)
            left, top = left + SIDE // 2 * (quarter % 2), top + SIDE // 2 * (quarter // 2)
            boxes.append([left, top, left + width, top + height])
            image[:, top : top + height, left : left + width] += COLOURS[label][:, None, None]
        true = torch.tensor(np.array(boxes)).float()
        near = true.repeat(12, 1) + torch.from_numpy(rng.integers(-8, 9, (12 * len(true), 4)))
        corners = torch.from_numpy(rng.integers(0, SIDE - 32, (60, 2)))
        elsewhere = torch.cat([corners, corners + torch.from_numpy(rng.integers(16, 64, (60, 2)))], dim=1)
        images.append(image)
        targets.append(Target(true, torch.from_numpy(labels)))
        proposals.append(torch.cat([near, elsewhere.float()]))
    return images, targets, proposals


def mean_ap(found: list[DetectorOutput], targets: list[Target]) -> float:
    counts = [
        count_detections(
            Detections.of(*(column.numpy() for column in output)),
            Truth.of(target.boxes.numpy(), target.labels.numpy()),
            num_classes=3,
            order=i,
        )
        for i, (output, target) in enumerate(zip(found, targets, strict=True))
    ]
    return DetectionCounts.merged(counts).scores.means["voc10"]


@pytest.mark.parametrize(("name", "options"), CASES, ids=[name for name, _ in CASES])
def test_overfits_eight_pictures(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = configure_detector(name, options).build(3)
    avoid_overflow(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5  # so that the averages follow within a few steps
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    images, targets, proposals = pictures()
    rng = np.random.default_rng(0)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.001)
    reached = 0.0
    for step in range(STEPS):
        model.train()
        loss = torch.stack(list(model.losses(images, targets, proposals, rng=rng).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 10 == 9:
            model.eval()
            with torch.inference_mode():
                reached = mean_ap(model.detect(images, proposals), targets)
            if reached > 0.9:
                break
    assert reached > 0.9
