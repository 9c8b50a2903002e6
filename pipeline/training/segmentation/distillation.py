"""Knowledge distillation: a network learns from the scores of a trained one as well as from labels.

Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015, with each pixel as an example, as in Liu
et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019, section 3.1.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline import models, storage
from pipeline.bundle import load_bundle
from pipeline.card import read_card
from pipeline.data.classes import Classes
from pipeline.data.preprocessing import Preprocessing
from pipeline.errors import UserError
from pipeline.models.layers import SegmentationOutput
from pipeline.models.upsampling import upsample


class Teacher(nn.Module):
    """A trained network that only gives scores: it stays in eval mode and does not learn.

    Args:
        network: The trained network.
        taught: Preprocessing of the images that it is called on.
        own: Preprocessing that it was trained with.

    Attributes:
        output_stride: Output stride of the network.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, *, taught: Preprocessing, own: Preprocessing):
        super().__init__()
        self.network = network.requires_grad_(False)
        self.output_stride: int = network.output_stride  # type: ignore[assignment]
        stds = torch.tensor(taught.std) / torch.tensor(own.std)
        shift = (torch.tensor(taught.mean) - torch.tensor(own.mean)) / torch.tensor(own.std)
        self.register_buffer("scale", stds[:, None, None], persistent=False)
        self.register_buffer("shift", shift[:, None, None], persistent=False)
        self.train(False)

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the scores [batch, classes, h, w] of images that are normalised for the network that learns."""
        return self.network(images * self.scale + self.shift).logits


class TaughtOutput(NamedTuple):
    """The outputs of both networks.

    Attributes:
        student: Output of the network that learns.
        teacher: Scores of the teacher [batch, classes, h, w], at its own output stride.
    """

    student: SegmentationOutput
    teacher: Tensor


class TaughtNetwork(nn.Module):
    """The module of a training step with a teacher.

    Args:
        network: The network that learns.
        teacher: Its teacher.
    """

    def __init__(self, network: nn.Module, teacher: Teacher):
        super().__init__()
        self.network = network
        self.teacher = teacher

    def forward(self, images: Tensor) -> TaughtOutput:
        """Return the outputs of both networks for normalised images [batch, 3, height, width]."""
        return TaughtOutput(self.network(images), self.teacher(images))


def check_teacher(url: str, classes: Classes) -> None:
    """Check that a bundle can teach these classes.

    Raises:
        UserError: There is no bundle, it is no segmentation network, or its classes are others.
    """
    card = read_card(url)
    name = f"--teacher {storage.redact(url)}"
    try:
        task = models.configure(card.architecture, card.options).task
    except ValueError as error:
        raise UserError(f"{name}: it does not fit this version of segpipe: {error}") from None
    if task != "segmentation":
        raise UserError(f"{name}: {card.architecture} learns {task}; give the bundle of a segmentation network")
    if card.classes.names != classes.names:
        raise UserError(
            f"{name}: its classes are {', '.join(card.classes.names)}; those of --classes are "
            f"{', '.join(classes.names)}. Both need the same classes in the same order"
        )


def load_teacher(url: str, *, taught: Preprocessing, device: torch.device) -> Teacher:
    """Load the teacher from a bundle to a device.

    Args:
        url: The bundle.
        taught: Preprocessing of the network that learns.
        device: Device to compute on.
    """
    network, card = load_bundle(url)
    return Teacher(network, taught=taught, own=card.preprocessing).to(device)


def distillation_losses(
    logits: Tensor, teacher: Tensor, labels: Tensor, *, ignore_index: int, strides: tuple[int, int], temperature: float
) -> Tensor:
    """Return T² KL(teacher || student) of each pixel at temperature T, [batch, height, width]; 0 for ignored pixels.

    With T², the gradients have the same size at every temperature (Hinton et al., section 2). Ignored pixels do not
    count, because crops are padded with them.

    Args:
        logits: Scores of the network that learns, [batch, classes, h, w].
        teacher: Scores of the teacher, [batch, classes, h', w'].
        labels: int64 [batch, height, width].
        ignore_index: Label of pixels that do not count.
        strides: Output strides of the network that learns and of the teacher.
        temperature: Divisor of all scores; above 1, the classes that a teacher finds unlikely count for more.
    """
    size = (labels.shape[-2], labels.shape[-1])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    student = (upsample(logits, size, stride=strides[0]) / temperature).log_softmax(dim=1)
    target = (upsample(teacher.to(logits.dtype), size, stride=strides[1]) / temperature).log_softmax(dim=1)
    divergence = (target.exp() * (target - student)).sum(dim=1)
    return temperature**2 * divergence * (labels != ignore_index)
