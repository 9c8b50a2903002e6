"""Our detectors learn eight pictures by heart, together with sampling, losses, suppression and scores."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.metrics.boxes import pairwise_iou
from pipeline.metrics.detection import DetectionCounts, count_detections
from pipeline.metrics.matching import Detections, Truth
from pipeline.models import configure
from pipeline.models.detection.boxes import DetectorOutput, encode
from pipeline.models.detection.detector import DetectionNetwork, Target
from pipeline.models.detection.sampling import regression_pairs, svm_negatives
from pipeline.models.detection.staged import StagedNetwork
from pipeline.models.detection.stages import feature_scale, fit_regressors, fit_svm
from pipeline.training.onednn import avoid_overflow

SIDE = 128
COLOURS = torch.tensor([[2.0, -1, -1], [-1, 2, -1], [-1, -1, 2]])
# Training ends as soon as the pictures are learned; the limit is several times as high.
STEPS = 400
CASES: list[tuple[str, dict[str, Any]]] = [
    ("rcnn_alexnet", {"width": 0.125, "crop": 100, "regions": 4}),
    ("sppnet_alexnet", {"width": 0.125, "scales": (128, 256), "regions": 8}),
    ("fast_rcnn_alexnet", {"width": 0.125, "short_side": 192, "regions": 32}),
    ("fast_rcnn_vgg16", {"width": 0.125, "short_side": 128, "regions": 32}),
    ("yolo_fast", {"width": 0.125, "grid": 4, "batch_norm": True}),
]


def pictures() -> tuple[list[Tensor], list[Target], list[Tensor]]:
    """Return noisy pictures of coloured boxes, the boxes, and proposals of which some are near them."""
    rng = np.random.default_rng(0)
    images, targets, proposals = [], [], []
    for _ in range(8):
        image = torch.from_numpy(0.1 * rng.standard_normal((3, SIDE, SIDE), np.float32))
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


def mean_iou(found: list[DetectorOutput], targets: list[Target]) -> float:
    """The mean over the true boxes of the IoU with the best-scored overlapping detection of their class."""
    ious = []
    for output, target in zip(found, targets, strict=True):
        for box, label in zip(target.boxes.numpy(), target.labels, strict=True):
            overlaps = pairwise_iou(output.boxes[output.labels == label].numpy(), box[None])[:, 0]
            ious.append(overlaps[overlaps > 0.3][:1].sum())
    return float(np.mean(ious))


def trained(name: str, options: dict[str, Any]) -> tuple[DetectionNetwork, float]:
    """Return a detector that has learned the pictures, and its mean average precision."""
    torch.manual_seed(0)
    model = configure(name, options).build(3)
    assert isinstance(model, DetectionNetwork)
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
            if reached > 0.95:
                break
    return model, reached


@pytest.mark.parametrize(("name", "options"), CASES, ids=[name for name, _ in CASES])
def test_overfits_eight_pictures(name: str, options: dict[str, Any]) -> None:
    _, reached = trained(name, options)
    assert reached > 0.9


@pytest.mark.parametrize(("name", "options"), CASES[:2], ids=[name for name, _ in CASES[:2]])
def test_svms_and_regressors_keep_what_was_learned_and_fit_the_boxes_better(name: str, options: dict[str, Any]) -> None:
    model, _ = trained(name, options)
    assert isinstance(model, StagedNetwork)
    images, targets, proposals = pictures()
    with torch.inference_mode():
        before = model.detect(images, proposals)
        of_truth = [
            model.features(*pair).hidden.numpy() for pair in zip(images, [t.boxes for t in targets], strict=True)
        ]
        features = [model.features(*pair) for pair in zip(images, proposals, strict=True)]
    scale = feature_scale(np.concatenate(of_truth))
    labels = [target.labels.numpy() for target in targets]
    negatives = [
        svm_negatives(p.numpy(), t.boxes.numpy(), t.labels.numpy(), num_classes=3)
        for p, t in zip(proposals, targets, strict=True)
    ]
    svms = [
        fit_svm(
            scale * np.concatenate(of_truth)[np.concatenate(labels) == label],
            [scale * f.hidden.numpy()[n[:, label]] for f, n in zip(features, negatives, strict=True)],
        )
        for label in range(3)
    ]
    pairs = [
        regression_pairs(p.numpy(), t.boxes.numpy(), t.labels.numpy(), num_classes=3)
        for p, t in zip(proposals, targets, strict=True)
    ]
    regressors = fit_regressors(
        np.concatenate([f.pooled.numpy()[pair.proposals] for f, pair in zip(features, pairs, strict=True)]),
        np.concatenate(
            [encode(torch.from_numpy(m.matched), p[m.proposals]).numpy() for p, m in zip(proposals, pairs, strict=True)]
        ),
        np.concatenate([pair.labels for pair in pairs]),
        num_classes=3,
        penalty=10.0,  # for some 20 examples of a class
    )
    weights, biases = (torch.from_numpy(np.stack(part)) for part in zip(*svms, strict=True))
    model.set_svms(weights, biases, scale=scale)
    model.set_regressors(*(torch.from_numpy(np.stack(part)) for part in zip(*regressors, strict=True)))
    with torch.inference_mode():
        after = model.detect(images, proposals)
    assert mean_ap(after, targets) > 0.7  # The SVMs see only five to ten positives of a class.
    assert mean_iou(after, targets) > mean_iou(before, targets)
