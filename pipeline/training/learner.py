"""The training step of a network, and the state that a checkpoint holds. Uses PyTorch, but neither Ray nor storage.

The workers of a process group share each step: its loss and gradient are those of the whole batch, however the batch is
divided.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline import models
from pipeline.errors import UserError
from pipeline.models.layers import BatchTooSmallError
from pipeline.predict.device import Normalisation, autocast, place
from pipeline.training import batch_norm, distributed, onednn
from pipeline.training.config import TrainerConfig
from pipeline.training.optimisation import build_optimiser, freeze_parameters, learning_rate, moving_decay
from pipeline.training.task import Labels, Objective, Pixels


class Learner:
    """A network with its optimiser, loss scaler and moving average.

    Args:
        network: Network on the CPU, newly initialised or with loaded weights; it is modified.
        config: Configuration of the run.
        objective: The loss.
        num_classes: Number of classes.
        steps: Steps of the whole run.
        device: Device to learn on.

    Attributes:
        network: The network, without the wrappers of `torch.compile` and `DistributedDataParallel`.
        average: The average of the weights, which is a copy of them until averaging begins, or None.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        config: TrainerConfig,
        objective: Objective,
        num_classes: int,
        steps: int,
        device: torch.device,
    ):
        self.config = config
        self.objective = objective
        self.steps = steps
        self.device = device
        self._normalise = Normalisation(config.preprocessing, device)
        architecture = models.configure(config.model, config.model_options)

        freeze_parameters(network, config.freeze)
        network = place(network, device)
        if device.type == "cpu":
            onednn.avoid_overflow(network)
        if config.batch_norm.mode == "frozen":
            batch_norm.freeze_weights(network)
        elif config.batch_norm.mode == "synchronised" and distributed.world_size() > 1:
            network = batch_norm.synchronise(network, device)
        self.network = network
        self.optimiser = build_optimiser(network, config.optimiser, models.score_layers(architecture, num_classes))
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.dtype == "float16")
        self.average: AveragedModel | None = None
        if config.optimiser.ema is not None:
            self.average = AveragedModel(network, use_buffers=True)  # see `step`
        elif config.optimiser.average_from is not None:
            self.average = AveragedModel(network, multi_avg_fn=_update_means, use_buffers=True)
        module = objective.module(network)
        model: Any = torch.compile(module) if config.compile else module
        if distributed.world_size() > 1:
            ids = [device.index] if device.type == "cuda" else None
            model = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)
        self.model = model

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and stored: the average if there is one, otherwise `network`."""
        return self.network if self.average is None else self.average.module

    def step(self, pixels: Pixels, labels: Labels, *, step: int) -> Tensor:
        """Learn from this worker's part of a batch.

        Args:
            pixels: uint8 [batch, height, width, 3], or a list of images, on the device.
            labels: Labels on the device, in the form that the objective takes.
            step: Number of the step in the whole run, from 0.

        Returns:
            This worker's share of the batch's loss, a scalar; the shares of all workers sum up to the loss.

        Raises:
            UserError: The batch is too small for batch normalisation.
        """
        rate = self.learning_rate(step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self.model.train()
        batch_norm.freeze_statistics(self.network)
        totals = distributed.sum_over_workers(self.objective.totals(labels))

        loss = torch.zeros((), device=self.device)
        parts = min(self.config.optimiser.accumulate, len(pixels))
        for part_pixels, part_labels, last in _split(pixels, labels, parts):
            # Gradients are averaged over workers once, after the last part.
            parallel = isinstance(self.model, DistributedDataParallel)
            with self.model.no_sync() if parallel and not last else nullcontext():
                part_loss = self._loss(part_pixels, part_labels, totals, progress=step / self.steps)
                # DistributedDataParallel divides the sum of the gradients by the number of workers.
                self.scaler.scale(part_loss * distributed.world_size()).backward()
            loss = loss + part_loss.detach()
        if self.config.optimiser.clip is not None:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimiser.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            if step <= (self.config.optimiser.average_from or 0) * self.steps:
                self.average.n_averaged.zero_()  # the first of an average is a copy
            if self.config.optimiser.ema is not None:
                decay = moving_decay(self.config.optimiser.ema, int(self.average.n_averaged))
                self.average.multi_avg_fn = get_ema_multi_avg_fn(decay)
            self.average.update_parameters(self.network)
        return loss

    def _loss(self, pixels: Pixels, labels: Labels, totals: Tensor, *, progress: float) -> Tensor:
        """Return the loss of a part of the batch, divided by the totals of the whole batch."""
        with autocast(self.device, self.config.dtype, cached=True):
            try:
                output = self.model(*self._arguments(pixels, labels))
            except BatchTooSmallError as error:
                raise UserError(
                    f"{self.config.model}: {error} (raise --batch-size or --augmentation.crop, or lower "
                    "--optimiser.accumulate)"
                ) from None
        return self.objective(output, labels, totals=totals, progress=progress)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, before the multipliers of parameter groups."""
        return learning_rate(self.config.schedule, lr=self.config.optimiser.lr, step=step, steps=self.steps)

    def _arguments(self, pixels: Pixels, labels: Labels) -> tuple[Any, ...]:
        """Return the arguments of the module that the objective calls."""
        if isinstance(pixels, Tensor):
            return self.objective.arguments(self._normalise(pixels), labels)
        return self.objective.arguments([self._normalise(image[None])[0] for image in pixels], labels)

    def recompute_batch_norm(self, batches: Iterator[tuple[Pixels, Labels]]) -> None:
        """Recompute the batch-norm statistics of `evaluated` from the pixels and labels of batches."""
        arguments = (self._arguments(pixels, labels) for pixels, labels in batches)
        batch_norm.recompute_statistics(self.objective.module(self.evaluated), arguments)
        distributed.broadcast_buffers(self.evaluated)

    def state_dict(self) -> dict[str, Any]:
        """Return all that decides how learning goes on, except for the step."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


@torch.no_grad()
def _update_means(means: Sequence[Tensor], values: Sequence[Tensor], count: Tensor | int) -> None:
    """Add values to the means of `count` values before; integers, such as counters, are replaced."""
    for mean, value in zip(means, values, strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 / (int(count) + 1))
        else:
            mean.copy_(value)


def _split(pixels: Pixels, labels: Labels, parts: int) -> Iterator[tuple[Pixels, Labels, bool]]:
    """Yield the pixels and labels of each part of a batch, and whether it is the last part."""
    pairs: list[tuple[Pixels, Labels]]
    if isinstance(pixels, Tensor) and isinstance(labels, Tensor):
        pairs = list(zip(pixels.tensor_split(parts), labels.tensor_split(parts), strict=True))
    else:
        ends = [len(pixels) * i // parts for i in range(parts + 1)]
        pairs = [(list(pixels[a:b]), list(labels[a:b])) for a, b in pairwise(ends)]
    for i, (part_pixels, part_labels) in enumerate(pairs, start=1):
        yield part_pixels, part_labels, i == len(pairs)
