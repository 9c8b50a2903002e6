"""Losses against brute force and by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.models.layers import SegmentationOutput
from pipeline.training.config import Loss, Split, TrainConfig
from pipeline.training.loop import auxiliary_weight
from pipeline.training.losses import (
    bootstrapped_cross_entropy,
    border_weights,
    cross_entropy,
    segmentation_loss,
)

IGNORE = 255


def batch(height: int = 6, width: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (3, height, width), generator=generator)
    labels[0, :2] = IGNORE
    return torch.randn(3, 4, height, width, generator=generator), labels


def test_cross_entropy_is_torchs_mean() -> None:
    logits, labels = batch()
    torch.testing.assert_close(
        cross_entropy(logits, labels, ignore_index=IGNORE), F.cross_entropy(logits, labels, ignore_index=IGNORE)
    )


def test_weights_multiply_each_pixel() -> None:
    logits, labels = batch()
    weights = torch.rand(labels.shape)
    each = -logits.log_softmax(dim=1)
    expected = [
        weights[b, y, x] * each[b, labels[b, y, x], y, x]
        for b, y, x in np.ndindex(*labels.shape)
        if labels[b, y, x] != IGNORE
    ]
    found = cross_entropy(logits, labels, ignore_index=IGNORE, weights=weights)
    torch.testing.assert_close(found, torch.stack(expected).mean())


@pytest.mark.parametrize("worst", [1, 5, 42, 1000])
def test_bootstrapping_takes_the_worst_pixels_of_each_image(worst: int) -> None:
    logits, labels = batch()
    means = []
    for scores, image in zip(logits, labels, strict=True):
        losses = []
        for y, x in np.ndindex(*image.shape):
            losses.append(0.0 if image[y, x] == IGNORE else float(-scores[:, y, x].log_softmax(0)[image[y, x]]))
        means.append(np.mean(sorted(losses, reverse=True)[:worst]))
    found = bootstrapped_cross_entropy(logits, labels, ignore_index=IGNORE, worst_pixels=worst)
    assert float(found) == pytest.approx(np.mean(means), rel=1e-5)


def test_bootstrapping_sends_no_gradient_to_easy_pixels() -> None:
    logits, labels = batch()
    logits.requires_grad_()
    bootstrapped_cross_entropy(logits, labels, ignore_index=IGNORE, worst_pixels=5).backward()
    reached = (logits.grad != 0).any(dim=1).flatten(1).sum(dim=1)
    assert reached.tolist() == [5, 5, 5]


def distance_to(mask: np.ndarray, y: int, x: int) -> float:
    return min(float(np.hypot(y - a, x - b)) for a, b in zip(*np.nonzero(mask), strict=True))


def test_border_weights_are_the_papers_formula() -> None:
    """Three objects of two classes, and pixels of unknown class, by brute force over all pairs of pixels."""
    labels = np.zeros((12, 15), np.int64)
    objects = [(slice(1, 4), slice(1, 5), 1), (slice(1, 5), slice(7, 10), 1), (slice(8, 12), slice(4, 13), 2)]
    for rows, columns, label in objects:
        labels[rows, columns] = label
    labels[6, 14] = IGNORE
    weights = border_weights(labels, ignore_index=IGNORE, amplitude=10, sigma=2.5)
    for y, x in np.ndindex(*labels.shape):
        expected = 1.0
        if labels[y, x] == 0:
            masks = []
            for rows, columns, _ in objects:
                mask = np.zeros_like(labels)
                mask[rows, columns] = 1
                masks.append(distance_to(mask, y, x))
            d1, d2 = sorted(masks)[:2]
            expected += 10 * np.exp(-((d1 + d2) ** 2) / (2 * 2.5**2))
        assert weights[y, x] == pytest.approx(expected, rel=1e-5), (y, x)
    assert weights.dtype == np.float32
    assert weights.max() > 5


@pytest.mark.parametrize("fill", [0, 1, IGNORE])
def test_without_two_objects_there_is_no_border(fill: int) -> None:
    labels = np.full((5, 6), fill)
    labels[1:3, 1:3] = 1
    assert (border_weights(labels, ignore_index=IGNORE) == 1).all()


def test_a_border_weighs_more_in_the_loss() -> None:
    labels = torch.ones(1, 8, 9, dtype=torch.long)
    labels[..., 4] = 0
    wrong_on_the_gap = F.one_hot(torch.ones_like(labels), 2).permute(0, 3, 1, 2).float() * 5
    wrong_elsewhere = F.one_hot(torch.where(labels == 0, 0, 0), 2).permute(0, 3, 1, 2).float() * 5

    def loss(kind: str, logits: torch.Tensor) -> float:
        told = {"ignore_index": IGNORE, "stride": 1, "auxiliary_weight": 0.0, "loss": Loss(kind=kind)}
        return float(segmentation_loss(SegmentationOutput(logits), labels, **told))

    assert loss("border_weighted", wrong_on_the_gap) > 5 * loss("cross_entropy", wrong_on_the_gap)
    assert loss("border_weighted", wrong_elsewhere) < 1.1 * loss("cross_entropy", wrong_elsewhere)


def test_every_output_has_the_chosen_loss() -> None:
    logits, labels = batch()
    told = {"ignore_index": IGNORE, "stride": 1, "loss": Loss(kind="bootstrapped", worst_pixels=3)}
    alone = segmentation_loss(SegmentationOutput(logits), labels, auxiliary_weight=0.5, **told)
    three = segmentation_loss(SegmentationOutput(logits, (logits, logits)), labels, auxiliary_weight=0.5, **told)
    torch.testing.assert_close(three, 2 * alone)
    expected = bootstrapped_cross_entropy(logits, labels, ignore_index=IGNORE, worst_pixels=3)
    torch.testing.assert_close(alone, expected)


@pytest.mark.parametrize(
    ("model", "loss", "expected"),
    [
        ("pspnet_resnet50", Loss(), (0.4, 0.4, 0.4)),
        ("deeplabv2_vgg16", Loss(), (1.0, 1.0, 1.0)),
        ("deep_contextual", Loss(), (1.0, 0.75, 0.0)),
        ("deep_contextual", Loss(auxiliary_decay=False), (1.0, 1.0, 1.0)),
        ("pspnet_resnet50", Loss(auxiliary_weight=0.8, auxiliary_decay=True), (0.8, 0.6, 0.0)),
        ("deep_contextual", Loss(auxiliary_weight=0.0), (0.0, 0.0, 0.0)),
    ],
)
def test_auxiliary_weights_are_the_papers_unless_told(model: str, loss: Loss, expected: tuple[float, ...]) -> None:
    split = Split(images="/images", labels="/labels")
    config = TrainConfig(model=model, train=split, val=split, classes="/classes.yaml", output="/out", loss=loss)
    assert tuple(auxiliary_weight(config, progress=p) for p in (0.0, 0.25, 1.0)) == pytest.approx(expected)
