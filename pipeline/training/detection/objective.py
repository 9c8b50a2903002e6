"""The loss of a detector, which the network computes itself."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.models.detection.detector import DetectionNetwork, Target
from pipeline.models.detection.inputs import at_least_float32
from pipeline.training.detection.examples import BoxLabels
from pipeline.training.task import Labels, Objective, Pixels


class DetectionLosses(nn.Module):
    """A module whose forward pass is the loss of a detector: `DistributedDataParallel` wraps forward passes alone.

    Args:
        network: The detector.
    """

    def __init__(self, network: DetectionNetwork):
        super().__init__()
        self.network = network

    def forward(self, images: list[Tensor], labels: list[BoxLabels]) -> Tensor:
        """Return the mean loss of normalised images [3, height, width], a scalar.

        The regions of an image are sampled by its own seed, so they depend neither on the other images of the batch nor
        on the number of workers.
        """
        losses = self.network.losses(
            images,
            [Target(own.boxes, own.labels) for own in labels],
            [own.proposals for own in labels],
            rng=[np.random.default_rng(own.seed.tolist()) for own in labels],
        )
        return torch.stack([at_least_float32(term) for term in losses.values()]).sum()


class DetectionObjective(Objective):
    """The mean loss of the images of a batch; see `task.Objective`."""

    def module(self, network: nn.Module) -> nn.Module:
        """Return the module that computes the loss."""
        assert isinstance(network, DetectionNetwork)
        return DetectionLosses(network)

    def arguments(self, images: Pixels, labels: Labels) -> tuple[Any, ...]:
        """Return the arguments of `DetectionLosses`."""
        return images, labels

    def totals(self, labels: list[BoxLabels]) -> Tensor:
        """Return the number of images, [1]."""
        return torch.tensor([float(len(labels))], device=labels[0].boxes.device)

    def __call__(self, output: Tensor, labels: list[BoxLabels], *, totals: Tensor, progress: float) -> Tensor:
        """Return this part's share of the loss of a batch with the given totals."""
        return output * len(labels) / totals[0]
