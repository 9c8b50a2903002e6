"""The training loop that runs on every worker."""

import io
import math
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from torch import nn

from pipeline import bundle, cluster, models, storage
from pipeline.classes import Classes
from pipeline.errors import UserError, find_user_error
from pipeline.inference import Segmenter, normalise
from pipeline.metrics import Confusion, Scores
from pipeline.models.layers import BatchTooSmallError
from pipeline.models.pretrained import Loaded, load_pretrained
from pipeline.training.config import TrainConfig
from pipeline.training.losses import segmentation_loss
from pipeline.training.records import write_records
from pipeline.training.validation import validate

CHECKPOINT = "state.pt"
REPORT_EVERY = 10  # steps; reading the loss waits for the GPU


@dataclass
class TrainingState:
    """What a resumed run goes on from, beside weights and optimiser."""

    epoch: int = 0
    best_miou: float = -1.0
    records: list[dict[str, Any]] = field(default_factory=list)


def train_worker(job: dict[str, Any]) -> None:
    """Train on this worker; Ray Train starts it on each, and again after a failure.

    What the user has to mend, no new start mends: the mistake is left with the monitor, and workers that are
    started again return at once.

    Args:
        job: `config` TrainConfig, `classes` Classes, `val` list of Sample, `steps` per epoch, `monitor` actor.
    """
    if ray.get(job["monitor"].get_mistake.remote()) is not None:
        return
    try:
        train_epochs(job)
    except Exception as error:
        mistake = find_user_error(error)
        if mistake is not None:
            ray.get(job["monitor"].fail.remote(str(mistake)))
        raise


def train_epochs(job: dict[str, Any]) -> None:
    """All epochs from the last checkpoint on."""
    config: TrainConfig = job["config"]
    classes: Classes = job["classes"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if not config.scaling.use_gpu:
        # Ray sets one thread per reserved CPU; a laptop's cores would idle.
        torch.set_num_threads(max(1, cluster.cpu_count() // context.get_local_world_size()))
    torch.manual_seed(config.seed)
    device = ray.train.torch.get_device()
    storage.filesystem(config.output)

    network = build_network(config, classes)
    if config.weights is not None:
        load_weights(network, config.weights)
    model: nn.Module = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = ray.train.torch.prepare_model(model)
    settings = config.optimiser
    optimiser = torch.optim.SGD(
        model.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    state = TrainingState()
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        state = restore(checkpoint, network, optimiser)

    segmenter = Segmenter(network, preprocessing=config.preprocessing, device=device, dtype=config.dtype)
    crops = ray.train.get_dataset_shard("train")
    while state.epoch < config.epochs:
        torch.manual_seed(config.seed * 100_003 + state.epoch * world + rank)  # dropout, the same after a resume
        if rank == 0:
            ray.get(job["monitor"].begin_epoch.remote(state.epoch))
        barrier(world)
        start = time.perf_counter()
        loss = train_epoch(model, optimiser, crops, config, classes, state.epoch, job, rank)
        trained = time.perf_counter()
        share_buffers(network, world)
        share, unread = validate(segmenter, job["val"][rank::world], classes)
        counts = summed(share, world, device)
        for reason in unread:
            job["monitor"].skipped.remote(reason)
        scores = counts.scores
        if counts.matrix.sum() == 0:
            raise UserError("the validation set has no labelled pixel; check it with jobs/validate.py")
        state.epoch += 1
        record = {
            "epoch": state.epoch,
            "epochs": config.epochs,
            "loss": loss,
            "miou": scores.miou,
            "miou_gt_only": scores.miou_gt_only,
            "pixel_accuracy": scores.pixel_accuracy,
            "iou": iou_by_class(scores, classes),
            "images_per_s": job["steps"] * config.batch_size / (trained - start),
            "train_s": trained - start,
            "val_s": time.perf_counter() - trained,
            "lr": optimiser.param_groups[0]["lr"],
            "best": scores.miou > state.best_miou,
        }
        if rank == 0:
            record["skipped"] = len(ray.get(job["monitor"].get_skipped.remote()))
            keep(record, state, network, config, classes)
            job["monitor"].epoch_done.remote(record)
        report(record, state, network, optimiser, rank)


def iou_by_class(scores: Scores, classes: Classes) -> dict[str, float | None]:
    """IoU by class name; None, which JSON has, for a class that is nowhere."""
    pairs = zip(classes.names, scores.iou.tolist(), strict=True)
    return {name: None if math.isnan(iou) else iou for name, iou in pairs}


def build_network(config: TrainConfig, classes: Classes) -> nn.Module:
    """The network with fresh weights, on the CPU."""
    return models.configure(config.model, config.model_options).build(len(classes))


def load_weights(network: nn.Module, url: str) -> Loaded:
    """Load a torchvision checkpoint into the network, where it fits.

    Raises:
        UserError: it is no checkpoint, or another architecture's.
    """
    checkpoint = bundle.read_checkpoint(url)
    try:
        return load_pretrained(network, checkpoint)
    except ValueError as error:
        raise UserError(f"weights {storage.redact(url)}: {error}") from None


def train_epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    crops: Any,
    config: TrainConfig,
    classes: Classes,
    epoch: int,
    job: dict[str, Any],
    rank: int,
) -> float:
    """One pass over the stream; the mean loss."""
    model.train()
    steps, total_steps = job["steps"], job["steps"] * config.epochs
    world = ray.train.get_context().get_world_size()
    losses = torch.zeros((), device=ray.train.torch.get_device())
    batches = crops.iter_torch_batches(batch_size=config.batch_size // world, prefetch_batches=2)
    step = 0
    for step, batch in enumerate(batches, start=1):
        done = epoch * steps + step - 1
        for group in optimiser.param_groups:
            group["lr"] = config.optimiser.lr * (1 - done / total_steps) ** config.optimiser.power
        with torch.autocast(batch["pixels"].device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            try:
                output = model(normalise(batch["pixels"], config.preprocessing))
            except BatchTooSmallError as error:
                raise UserError(f"{config.model}: {error} (--batch_size, --augmentation.crop)") from None
        loss = segmentation_loss(
            output,
            batch["labels"].long(),
            ignore_index=classes.ignore_index,
            stride=output_stride(model),
            auxiliary_weight=auxiliary_weight(config, progress=done / total_steps),
            loss=config.loss,
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses += loss.detach()
        if rank == 0 and (step % REPORT_EVERY == 0 or step == steps):
            job["monitor"].step.remote(step, steps, float(losses) / step)
    mean = float(losses) / max(step, 1)
    if not math.isfinite(mean):
        raise UserError(f"the loss of epoch {epoch + 1} is not finite; a lower --optimiser.lr may help")
    return mean


def output_stride(model: nn.Module) -> int:
    """The output stride of a network, wrapped for data-parallel training or not."""
    return getattr(model, "module", model).output_stride  # type: ignore[return-value]


def auxiliary_weight(config: TrainConfig, *, progress: float) -> float:
    """The weight of auxiliary outputs when a share `progress` of the run is over."""
    architecture = models.configure(config.model, config.model_options)
    loss = config.loss
    weight = architecture.auxiliary_weight if loss.auxiliary_weight is None else loss.auxiliary_weight
    decays = architecture.auxiliary_decay if loss.auxiliary_decay is None else loss.auxiliary_decay
    return weight * (1 - progress) if decays else weight


def summed(counts: Confusion, world: int, device: torch.device) -> Confusion:
    """The sum of the workers' counts, on each of them, in int64."""
    if world == 1:
        return counts
    rest = [counts.ignored, counts.invalid_label, counts.invalid_prediction]
    flat = torch.from_numpy(np.concatenate([counts.matrix.ravel(), np.array(rest, np.int64)])).to(device)
    torch.distributed.all_reduce(flat)
    values = flat.cpu().numpy()
    return Confusion(values[:-3].reshape(counts.matrix.shape), *map(int, values[-3:]))


def share_buffers(network: nn.Module, world: int) -> None:
    """Give every worker rank 0's batch-norm statistics, so that all validate the network that is stored."""
    if world > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def barrier(world: int) -> None:
    if world > 1:
        torch.distributed.barrier()


def keep(
    record: dict[str, Any], state: TrainingState, network: nn.Module, config: TrainConfig, classes: Classes
) -> None:
    """Write the bundle if this epoch is the best by mIoU, and the records, before the checkpoint: a run that
    dies in between does the epoch again and writes the same."""
    state.records.append(record)
    if record["best"]:
        state.best_miou = record["miou"]
        card = bundle.Card(
            architecture=config.model,
            options=config.model_options,
            classes=classes,
            preprocessing=config.preprocessing,
            training={"config": config.model_dump(mode="json"), "record": record},
        )
        bundle.save_bundle(config.output, network, card)
    write_records(config.output, state.records)


def report(
    record: dict[str, Any],
    state: TrainingState,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    rank: int,
) -> None:
    """Hand the checkpoint to Ray Train, which stores it and keeps the last."""
    metrics = {"epoch": record["epoch"], "loss": record["loss"], "miou": record["miou"]}
    if rank != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        content = {
            "model": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "epoch": state.epoch,
            "best_miou": state.best_miou,
            "records": state.records,
        }
        torch.save(content, Path(folder) / CHECKPOINT)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def restore(checkpoint: Any, network: nn.Module, optimiser: torch.optim.Optimizer) -> TrainingState:
    """Load a checkpoint into network and optimiser."""
    with checkpoint.as_directory() as folder:
        data = (Path(folder) / CHECKPOINT).read_bytes()
    content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    network.load_state_dict(content["model"])
    optimiser.load_state_dict(content["optimiser"])
    return TrainingState(epoch=content["epoch"], best_miou=content["best_miou"], records=content["records"])
