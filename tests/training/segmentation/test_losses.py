"""Losses against direct implementations of their formulas, in float64.

A test without an explicit tolerance compares two orders of the same float64 sums.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.models.layers import SegmentationOutput
from pipeline.training.segmentation.config import SegmentationLoss, Split, TrainConfig
from pipeline.training.segmentation.losses import LossTotals, border_weights, loss_totals, segmentation_loss
from pipeline.training.segmentation.task import auxiliary_weight

IGNORE = 255


def batch(height: int = 6, width: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (3, height, width), generator=generator)
    labels[0, :2] = IGNORE
    return torch.randn(3, 4, height, width, generator=generator, dtype=torch.float64), labels


def loss_of(
    logits: torch.Tensor, labels: torch.Tensor, *, class_weights: torch.Tensor | None = None, **options: Any
) -> torch.Tensor:
    return segmentation_loss(
        SegmentationOutput(logits),
        labels,
        ignore_index=IGNORE,
        stride=1,
        auxiliary_weight=0.0,
        loss=SegmentationLoss(**options),
        class_weights=class_weights,
    )


TERMS = ["cross_entropy", "bootstrapped", "border_weighted", "focal", "dice", "lovasz_softmax"]
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.1], dtype=torch.float64)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_is_that_of_torch(weights: torch.Tensor | None, reduction: str) -> None:
    logits, labels = batch()
    expected = F.cross_entropy(logits, labels, weight=weights, ignore_index=IGNORE, reduction=reduction)
    torch.testing.assert_close(loss_of(logits, labels, reduction=reduction, class_weights=weights), expected)


@pytest.mark.parametrize("worst", [1, 5, 42, 1000])
def test_bootstrapping_takes_the_worst_pixels_of_each_image(worst: int) -> None:
    logits, labels = batch()
    means = []
    for scores, image in zip(logits, labels, strict=True):
        losses = []
        for y, x in np.ndindex(*image.shape):
            losses.append(0.0 if image[y, x] == IGNORE else float(-scores[:, y, x].log_softmax(0)[image[y, x]]))
        means.append(np.mean(sorted(losses, reverse=True)[:worst]))
    loss = loss_of(logits, labels, terms={"bootstrapped": 1}, worst_pixels=worst)
    assert float(loss) == pytest.approx(np.mean(means))


def test_bootstrapping_gives_easy_pixels_no_gradient() -> None:
    logits, labels = batch()
    logits.requires_grad_()
    loss_of(logits, labels, terms={"bootstrapped": 1}, worst_pixels=5).backward()
    assert logits.grad is not None
    pixels_with_gradient = (logits.grad != 0).any(dim=1).flatten(1).sum(dim=1)
    assert pixels_with_gradient.tolist() == [5, 5, 5]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_by_hand(gamma: float) -> None:
    logits, labels = batch()
    p = logits.softmax(dim=1)
    values = [
        -WEIGHTS[labels[b, y, x]] * (1 - p[b, labels[b, y, x], y, x]) ** gamma * p[b, labels[b, y, x], y, x].log()
        for b, y, x in np.ndindex(*labels.shape)
        if labels[b, y, x] != IGNORE
    ]
    expected = torch.stack(values).sum() / WEIGHTS[labels[labels != IGNORE]].sum()
    loss = loss_of(logits, labels, terms={"focal": 1}, focal_gamma=gamma, class_weights=WEIGHTS)
    torch.testing.assert_close(loss, expected)


def test_focal_loss_has_a_finite_gradient_where_p_is_1() -> None:
    logits = torch.tensor([200.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    loss_of(logits, torch.zeros(1, 1, 1, dtype=torch.long), terms={"focal": 1}, focal_gamma=0.5).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_dice_by_hand() -> None:
    logits, labels = batch()
    p = logits.softmax(dim=1)
    images = []
    for b, image in enumerate(labels):
        known = image != IGNORE
        terms = []
        for k in range(4):
            truth = (image == k) & known
            if truth.any():
                terms.append(1 - 2 * p[b, k][truth].sum() / (p[b, k][known].sum() + truth.sum()))
        images.append(torch.stack(terms).mean())
    torch.testing.assert_close(loss_of(logits, labels, terms={"dice": 1}), torch.stack(images).mean())


def lovasz_by_definition(errors: list[float], truth: list[bool]) -> float:
    """Equation 8 of the paper: the sum over the sorted errors of error x (J(first i wrong) - J(first i - 1 wrong))."""
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    total, before = 0.0, 0.0
    for i in range(len(order)):
        wrong = set(order[: i + 1])
        # The predicted set is the truth with the first i + 1 pixels flipped.
        predicted = [truth[j] != (j in wrong) for j in range(len(truth))]
        intersection = sum(a and b for a, b in zip(truth, predicted, strict=True))
        union = sum(a or b for a, b in zip(truth, predicted, strict=True))
        jaccard = 1 - intersection / union
        total += errors[order[i]] * (jaccard - before)
        before = jaccard
    return total


def test_lovasz_softmax_by_definition() -> None:
    logits, labels = batch()
    p = logits.softmax(dim=1)
    images = []
    for b, image in enumerate(labels):
        known = (image != IGNORE).flatten()
        terms = []
        for k in range(4):
            truth = (image.flatten() == k)[known]
            if truth.any():
                errors = (truth.double() - p[b, k].flatten()[known]).abs()
                terms.append(lovasz_by_definition(errors.tolist(), truth.tolist()))
        images.append(np.mean(terms))
    assert float(loss_of(logits, labels, terms={"lovasz_softmax": 1})) == pytest.approx(np.mean(images))


def test_lovasz_softmax_of_certain_predictions_is_1_minus_iou() -> None:
    labels = torch.tensor([[[0, 0, 1, 1, 1, IGNORE]]])
    predicted = torch.tensor([[[0, 1, 1, 1, 0, 1]]])
    logits = 100.0 * F.one_hot(predicted, 2).permute(0, 3, 1, 2).double()
    expected = np.mean([1 - 1 / 3, 1 - 2 / 4])
    assert float(loss_of(logits, labels, terms={"lovasz_softmax": 1})) == pytest.approx(expected)


@pytest.mark.parametrize("term", TERMS)
def test_a_batch_of_ignored_pixels_has_loss_0_and_a_finite_gradient(term: str) -> None:
    logits, labels = batch()
    logits.requires_grad_()
    loss = loss_of(logits, torch.full_like(labels, IGNORE), terms={term: 1})
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("term", TERMS)
def test_gradient_descent_lowers_every_term(term: str) -> None:
    logits, labels = batch()
    logits.requires_grad_()
    before = loss_of(logits, labels, terms={term: 1})
    before.backward()
    assert logits.grad is not None
    after = loss_of(logits.detach() - 0.05 * logits.grad / logits.grad.abs().max(), labels, terms={term: 1})
    assert after < before


def test_terms_are_summed_with_their_weights() -> None:
    logits, labels = batch()
    cross_entropy, dice = (loss_of(logits, labels, terms={term: 1}) for term in ("cross_entropy", "dice"))
    both = loss_of(logits, labels, terms={"cross_entropy": 0.5, "dice": 3})
    torch.testing.assert_close(both, 0.5 * cross_entropy + 3 * dice)


@pytest.mark.parametrize("term", TERMS)
def test_the_losses_of_parts_add_up_to_the_loss_of_the_batch(term: str) -> None:
    """The parts divide by the totals of the batch, and the first image has fewer labelled pixels than the others."""
    logits, labels = batch()
    totals = loss_totals(labels, ignore_index=IGNORE, class_weights=WEIGHTS)
    loss = SegmentationLoss.model_validate({"terms": {term: 1}, "worst_pixels": 5})

    def loss_of_part(part: slice, divisors: LossTotals | None) -> torch.Tensor:
        return segmentation_loss(
            SegmentationOutput(logits[part]),
            labels[part],
            ignore_index=IGNORE,
            stride=1,
            auxiliary_weight=0.0,
            loss=loss,
            class_weights=WEIGHTS,
            divisors=divisors,
        )

    parts = loss_of_part(slice(0, 1), totals) + loss_of_part(slice(1, 3), totals)
    torch.testing.assert_close(parts, loss_of_part(slice(None), None))


def test_ignored_images_do_not_count_at_a_lower_resolution() -> None:
    """The scores have an output stride of 2, and the first image is ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 8, 8), generator=generator)
    labels[0] = IGNORE

    def loss(output: SegmentationOutput, labels: torch.Tensor) -> torch.Tensor:
        return segmentation_loss(output, labels, ignore_index=IGNORE, stride=2, auxiliary_weight=0.5)

    torch.testing.assert_close(
        loss(SegmentationOutput(logits), labels), loss(SegmentationOutput(logits[1:]), labels[1:])
    )


def test_half_precision_is_summed_in_single_precision() -> None:
    logits, labels = batch()
    loss = loss_of(logits.bfloat16(), labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, loss_of(logits.bfloat16().float(), labels))


def distance_to(mask: np.ndarray, y: int, x: int) -> float:
    return min(float(np.hypot(y - a, x - b)) for a, b in zip(*np.nonzero(mask), strict=True))


def test_border_weights_follow_the_formula_of_the_paper() -> None:
    """Three objects of two classes, and pixels of unknown class, compared over all pairs of pixels."""
    labels = np.zeros((12, 15), np.int64)
    objects = [(slice(1, 4), slice(1, 5), 1), (slice(1, 5), slice(7, 10), 1), (slice(8, 12), slice(4, 13), 2)]
    for rows, columns, label in objects:
        labels[rows, columns] = label
    labels[6, 14] = IGNORE
    weights = border_weights(labels, ignore_index=IGNORE, amplitude=10, sigma=2.5)
    for y, x in np.ndindex(*labels.shape):
        expected = 1.0
        if labels[y, x] == 0:
            distances = []
            for rows, columns, _ in objects:
                mask = np.zeros_like(labels)
                mask[rows, columns] = 1
                distances.append(distance_to(mask, y, x))
            d1, d2 = sorted(distances)[:2]
            expected += 10 * np.exp(-((d1 + d2) ** 2) / (2 * 2.5**2))
        assert weights[y, x] == pytest.approx(expected, rel=1e-6), (y, x)  # float32 rounds by up to 6e-8
    assert weights.dtype == np.float32
    assert weights.max() > 5


@pytest.mark.parametrize("fill", [0, 1, IGNORE])
def test_a_border_needs_two_objects(fill: int) -> None:
    labels = np.full((5, 6), fill)
    labels[1:3, 1:3] = 1
    assert (border_weights(labels, ignore_index=IGNORE) == 1).all()


def test_the_loss_weighs_borders_more() -> None:
    labels = torch.ones(1, 8, 9, dtype=torch.long)
    labels[..., 4] = 0
    wrong_on_the_gap = F.one_hot(torch.ones_like(labels), 2).permute(0, 3, 1, 2).float() * 5
    wrong_elsewhere = F.one_hot(torch.zeros_like(labels), 2).permute(0, 3, 1, 2).float() * 5

    def loss(term: str, logits: torch.Tensor) -> float:
        return float(loss_of(logits, labels, terms={term: 1}))

    assert loss("border_weighted", wrong_on_the_gap) > 5 * loss("cross_entropy", wrong_on_the_gap)
    assert loss("border_weighted", wrong_elsewhere) < 1.1 * loss("cross_entropy", wrong_elsewhere)


def test_auxiliary_outputs_have_the_same_loss_times_their_weight() -> None:
    logits, labels = batch()
    loss = segmentation_loss(
        SegmentationOutput(logits, (logits, logits)),
        labels,
        ignore_index=IGNORE,
        stride=1,
        auxiliary_weight=0.5,
        loss=SegmentationLoss(terms={"bootstrapped": 1}, worst_pixels=3),
    )
    torch.testing.assert_close(loss, 2 * loss_of(logits, labels, terms={"bootstrapped": 1}, worst_pixels=3))


@pytest.mark.parametrize(
    ("model", "loss", "expected"),
    [
        ("pspnet_resnet50", SegmentationLoss(), (0.4, 0.4, 0.4)),
        ("deeplabv2_vgg16", SegmentationLoss(), (1.0, 1.0, 1.0)),
        ("deep_contextual", SegmentationLoss(), (1.0, 0.75, 0.0)),
        ("deep_contextual", SegmentationLoss(auxiliary_decay=False), (1.0, 1.0, 1.0)),
        ("pspnet_resnet50", SegmentationLoss(auxiliary_weight=0.8, auxiliary_decay=True), (0.8, 0.6, 0.0)),
        ("deep_contextual", SegmentationLoss(auxiliary_weight=0.0), (0.0, 0.0, 0.0)),
    ],
)
def test_auxiliary_weights_are_those_of_the_paper_by_default(
    model: str, loss: SegmentationLoss, expected: tuple[float, ...]
) -> None:
    split = Split(images="/images", labels="/labels")
    config = TrainConfig(model=model, train=split, val=split, classes="/classes.yaml", output="/out", loss=loss)
    assert tuple(auxiliary_weight(config, progress=p) for p in (0.0, 0.25, 1.0)) == pytest.approx(expected)
