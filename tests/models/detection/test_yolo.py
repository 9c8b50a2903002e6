"""YOLO's loss against a loop written from the paper, its grid, and its layers."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.metrics.boxes import pairwise_iou
from pipeline.models import configure
from pipeline.models.detection.boxes import Selection
from pipeline.models.detection.detector import Target
from pipeline.models.detection.sampling import grid_targets
from pipeline.models.detection.yolo import YOLO, YOLOOutput, cell_boxes, yolo_loss
from tests.support.boxes import random_boxes

S, B, C = 4, 3, 5


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def random_output(batch: int) -> YOLOOutput:
    """Predictions with negative square roots of sides, and in the lower half of the image with sides of zero."""
    sides = torch.randn(batch, S, S, B, 2, dtype=torch.float64) * 0.5
    sides[:, S // 2 :] = 0
    boxes = torch.cat([torch.rand(batch, S, S, B, 2, dtype=torch.float64), sides], dim=-1)
    return YOLOOutput(
        boxes,
        torch.randn(batch, S, S, B, dtype=torch.float64),
        torch.randn(batch, S, S, C, dtype=torch.float64),
    )


def random_truth(batch: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    grids = [
        grid_targets(random_boxes(rng, n, least=5), rng.integers(0, C, n), size=(100, 100), grid=S)
        for n in [0, 6, 9][:batch]
    ]
    boxes = torch.from_numpy(np.stack([g.boxes for g in grids])).double()
    return boxes, torch.from_numpy(np.stack([g.labels for g in grids]))


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def corners(row: int, column: int, box: list[float]) -> np.ndarray:
    """The corners of a predicted box in units of the image."""
    x, y, w, h = (column + box[0]) / S, (row + box[1]) / S, box[2] ** 2, box[3] ** 2
    return np.array([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]])


def loss_by_the_paper(output: YOLOOutput, boxes: Tensor, labels: Tensor) -> dict[str, float]:
    """Equation 3, term by term."""
    terms = {"boxes": 0.0, "confidences": 0.0, "classes": 0.0}
    no_overlap = 0
    for n in range(len(labels)):
        for row in range(S):
            for column in range(S):
                label = int(labels[n, row, column])
                responsible, best = -1, 0.0
                if label >= 0:
                    truth = boxes[n, row, column].numpy()
                    found = [corners(row, column, output.boxes[n, row, column, j].tolist()) for j in range(B)]
                    ious = [pairwise_iou(f, truth[None])[0, 0] for f in found]
                    responsible, best = int(np.argmax(ious)), max(ious)
                    if best == 0:
                        no_overlap += 1
                        responsible = int(np.argmin([((f - truth) ** 2).sum() for f in found]))
                    left, top, right, bottom = truth
                    x_hat, y_hat = (left + right) / 2 * S - column, (top + bottom) / 2 * S - row
                    w_hat, h_hat = right - left, bottom - top
                    x, y, root_w, root_h = output.boxes[n, row, column, responsible].tolist()
                    terms["boxes"] += 5 * ((x - x_hat) ** 2 + (y - y_hat) ** 2)
                    terms["boxes"] += 5 * ((root_w - math.sqrt(w_hat)) ** 2 + (root_h - math.sqrt(h_hat)) ** 2)
                    for c in range(C):
                        terms["classes"] += (output.classes[n, row, column, c].item() - (c == label)) ** 2
                for j in range(B):
                    confidence = output.confidences[n, row, column, j].item()
                    if j == responsible:
                        terms["confidences"] += (confidence - best) ** 2
                    else:
                        terms["confidences"] += 0.5 * confidence**2
    assert no_overlap > 0  # the scene has this case, too
    return {name: value / len(labels) for name, value in terms.items()}


def test_the_loss_equals_a_loop_written_from_the_paper() -> None:
    output, (boxes, labels) = random_output(3), random_truth(3)
    expected = loss_by_the_paper(output, boxes, labels)
    found = {name: value.item() for name, value in yolo_loss(output, boxes, labels).items()}
    assert found == pytest.approx(expected, rel=1e-12)
    assert (labels >= 0).sum() > 8


def test_the_confidence_target_is_a_constant() -> None:
    output, (boxes, labels) = random_output(3), random_truth(3)
    for tensor in output:
        tensor.requires_grad_()
    yolo_loss(output, boxes, labels)["confidences"].backward()
    assert output.boxes.grad is None
    assert output.confidences.grad is not None


def test_a_perfect_prediction_has_no_loss() -> None:
    boxes, labels = random_truth(3)
    output = random_output(3)
    places = torch.arange(S, dtype=torch.float64)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2 * S - torch.stack(torch.meshgrid(places, places, indexing="xy"), -1)
    exact = torch.cat([centres, (boxes[..., 2:] - boxes[..., :2]).sqrt()], dim=-1)
    output.boxes[..., 1, :] = exact
    output.confidences.zero_()
    output.confidences[..., 1] = (labels >= 0).double()
    output.classes.copy_(nn.functional.one_hot(labels.clamp(min=0), C))
    assert total(yolo_loss(output, boxes, labels)).item() == pytest.approx(0, abs=1e-12)
    present = labels >= 0
    torch.testing.assert_close(cell_boxes(output.boxes)[..., 1, :][present], boxes[present])


def test_zero_square_roots_have_finite_gradients() -> None:
    boxes, labels = random_truth(3)
    output = YOLOOutput(*(torch.zeros_like(t).requires_grad_() for t in random_output(3)))
    total(yolo_loss(output, boxes, labels)).backward()
    for tensor in output:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_the_layers_are_those_of_figure_3() -> None:
    with torch.device("meta"):
        models = [configure(name, {}).build(20) for name in ("yolo", "yolo_fast")]
    assert [sum(isinstance(m, nn.Conv2d) for m in model.modules()) for model in models] == [24, 9]
    for model in models:
        assert isinstance(model, YOLO)
        assert model.side == 448
        assert model.features(torch.empty(1, 3, 448, 448, device="meta")).shape == (1, 1024, 7, 7)
        last = model.head[-1]
        assert isinstance(last, nn.Linear)
        assert last.out_features == 1470


def test_detections_are_the_loss_targets_turned_back() -> None:
    """A network whose output is the truth finds it, at the size of the image."""
    model = configure("yolo_fast", {"width": 0.05, "grid": S, "boxes": B}).build(C).eval()
    assert isinstance(model, YOLO)
    image = torch.zeros(3, 120, 200)
    boxes = torch.tensor([[10.0, 20, 60, 90], [120, 5, 199, 60]])
    target = Target(boxes, torch.tensor([3, 1]))
    grid = grid_targets(boxes.numpy(), target.labels.numpy(), size=(120, 200), grid=S)
    flat = torch.zeros(S, S, B * 5 + C)
    for row, column in np.argwhere(grid.labels >= 0).tolist():
        left, top, right, bottom = grid.boxes[row, column].tolist()
        cell = flat[row, column]
        cell[5:10] = torch.tensor(
            [
                (left + right) / 2 * S - column,
                (top + bottom) / 2 * S - row,
                (right - left) ** 0.5,
                -((bottom - top) ** 0.5),
                0.9,
            ]
        )
        cell[B * 5 + int(grid.labels[row, column])] = 0.5
    last = model.head[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(flat.flatten())
        found = model.detect([image], selection=Selection(score=0.1, iou=0.5))[0]
    order = found.labels.argsort(descending=True)  # the scores are equal up to rounding
    assert found.labels[order].tolist() == [3, 1]
    assert found.scores.tolist() == pytest.approx([0.45, 0.45])
    torch.testing.assert_close(found.boxes[order], boxes, rtol=1e-4, atol=1e-3)
