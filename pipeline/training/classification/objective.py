"""The loss of a classifier."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.cam_classifier import ClassifierOutput
from pipeline.training.classification.config import ClassifierLoss
from pipeline.training.task import Objective


class ClassifierObjective(Objective):
    """Cross-entropy of scores against classes; see `task.Objective` and `config.ClassifierLoss`.

    Args:
        loss: Options of the loss.
        multi_label: Whether labels are 0 or 1 for each class, [batch, classes], rather than an index, [batch].
        weights: float [classes] on the device, or None.
    """

    def __init__(self, loss: ClassifierLoss, *, multi_label: bool, weights: Tensor | None):
        self.loss = loss
        self.multi_label = multi_label
        self.weights = weights

    def totals(self, labels: Tensor) -> Tensor:
        """Return the number or the summed weight of these labels, [1]."""
        if self.multi_label or self.weights is None:
            return torch.tensor([float(labels.numel())], device=labels.device)
        return self.weights[labels].sum()[None].clamp(min=1e-6)

    def __call__(self, output: ClassifierOutput, labels: Tensor, *, totals: Tensor, progress: float) -> Tensor:
        """Return this part's share of the loss of a batch with the given totals."""
        logits, smoothing = output.logits.float(), self.loss.label_smoothing
        if self.multi_label:
            truth = labels.float() * (1 - smoothing) + smoothing / 2
            terms = F.binary_cross_entropy_with_logits(logits, truth, reduction="sum", pos_weight=self.weights)
        else:
            terms = F.cross_entropy(logits, labels, weight=self.weights, label_smoothing=smoothing, reduction="sum")
        return terms / totals[0]
