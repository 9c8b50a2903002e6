"""The training loop that runs on every worker."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from torch import Tensor

from pipeline import cluster, storage
from pipeline.errors import UserError, find_user_error
from pipeline.predict.device import NotFiniteError
from pipeline.training import distributed
from pipeline.training.checkpoints import restore, store
from pipeline.training.config import TrainerConfig
from pipeline.training.epoch_writer import EpochWriter
from pipeline.training.learner import Learner
from pipeline.training.loader import Batch, Loader
from pipeline.training.monitor import EpochReport, StepReport
from pipeline.training.network import build_network
from pipeline.training.records import NON_FINITE
from pipeline.training.resources import peak_memory_mib
from pipeline.training.task import Task, Validated

REPORT_EVERY = 10  # steps between reports to the monitor, because reading the loss waits for the GPU


@dataclass(frozen=True)
class WorkerJob:
    """What a worker needs to train.

    Attributes:
        config: Configuration of the run.
        task: What is learnt.
        draw: Reference to the `examples.Draw` of the training examples.
        table: Reference to the table of training images.
        steps_per_epoch: Steps of an epoch.
        monitor: Handle of the run's `Monitor`.
    """

    config: TrainerConfig
    task: Task
    draw: ray.ObjectRef
    table: ray.ObjectRef
    steps_per_epoch: int
    monitor: Any


def train_worker(job: WorkerJob) -> None:
    """Train on this worker; Ray Train calls it on each worker, and again after a failure.

    A user's mistake is not repaired by a new start, so it is left with the monitor, and workers that are started again
    return at once.
    """
    if ray.get(job.monitor.get_mistake.remote()) is not None:
        return
    try:
        _train(job)
    except Exception as error:
        mistake = find_user_error(error)
        if mistake is not None:
            ray.get(job.monitor.report_mistake.remote(str(mistake)))
        raise


def _train(job: WorkerJob) -> None:
    """Train all epochs from the last checkpoint on."""
    config, task = job.config, job.task
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if not config.scaling.use_gpu:
        # Ray sets one thread per reserved CPU, and a laptop's other cores would idle.
        torch.set_num_threads(max(1, cluster.cpu_count() // context.get_local_world_size()))
    torch.manual_seed(config.seed)
    device = ray.train.torch.get_device()
    network, _ = build_network(config, task.classes)
    learner = Learner(
        network,
        config=config,
        objective=task.objective(network, device),
        num_classes=len(task.classes),
        steps=job.steps_per_epoch * config.epochs,
        device=device,
    )
    progress = restore(learner)
    evaluator = task.evaluator(learner.evaluated, device)
    loader = Loader(
        job.draw,
        job.table,
        batch_size=config.batch_size,
        rank=rank,
        world=world,
        device=device,
        max_tasks=cluster.available().cpus // world,
        task_cpus=0 if config.scaling.min_workers and not config.scaling.use_gpu else 1,
    )
    steps = job.steps_per_epoch
    with contextlib.closing(loader(epochs=range(progress.epoch, config.epochs), steps=steps)) as batches:
        while progress.epoch < config.epochs:
            # Dropout and other random layers behave the same after a resume.
            torch.manual_seed(config.seed * 100_003 + progress.epoch * world + rank)
            distributed.barrier()
            record = train_epoch(learner, batches, loader, epoch=progress.epoch, job=job)
            if config.batch_norm.recompute:
                drawn = loader(epochs=[config.epochs + progress.epoch], steps=config.batch_norm.recompute)
                learner.recompute_batch_norm((batch.pixels, batch.labels) for batch in drawn)
            start = time.perf_counter()
            validated = validate_together(learner, evaluator, job)
            record |= validated.record(task.classes) | {"val_s": time.perf_counter() - start}
            score = record[task.measures.headline]
            record["best"] = score > progress.best
            progress.epoch += 1
            progress.best = max(progress.best, score)
            progress.records.append(record)
            if rank == 0:
                record["skipped"] = len(ray.get(job.monitor.get_skipped.remote()))
                sheet = task.pictures(evaluator) if config.tracking.tensorboard else b""
                job.monitor.report_epoch.remote(EpochReport(record, validated.confusion, sheet))
            writer = EpochWriter(learner, progress, validated, config, task.card())
            store(learner, progress, rank=rank, before_upload=writer)


def train_epoch(
    learner: Learner, batches: Iterator[Batch], loader: Loader, *, epoch: int, job: WorkerJob
) -> dict[str, Any]:
    """Learn from the epoch's steps, and return the epoch's record without validation.

    Raises:
        UserError: The loss is not finite.
    """
    config = job.config
    steps, first = job.steps_per_epoch, epoch * job.steps_per_epoch
    world, rank = distributed.world_size(), distributed.rank()
    sums = torch.zeros((), device=learner.device)
    start, loader.waited = time.perf_counter(), 0.0
    previous: tuple[Tensor, Batch] | None = None
    for step in range(steps):
        batch = next(batches)
        for line in batch.skipped:
            job.monitor.report_skipped.remote(line)
        share = learner.step(batch.pixels, batch.labels, step=first + step)
        sums += share
        # Losses are read one step late, so that the GPU already works on the next step.
        if previous is not None:
            check_finite(*previous, step=first + step - 1, learner=learner)
        previous = share, batch
        if rank == 0 and ((step + 1) % REPORT_EVERY == 0 or step + 1 == steps):
            speed = (step + 1) * config.batch_size / (time.perf_counter() - start)
            rate = learner.learning_rate(first + step)
            loss = float(sums) * world / (step + 1)
            job.monitor.report_step.remote(StepReport(first + step + 1, loss, rate, speed))
    if previous is not None:
        check_finite(*previous, step=first + steps - 1, learner=learner)
    loss = float(distributed.sum_over_workers(sums)) / steps
    seconds = time.perf_counter() - start
    return {
        "epoch": epoch + 1,
        "epochs": config.epochs,
        "loss": loss,
        "lr": learner.learning_rate(first + steps - 1),
        "images_per_s": steps * config.batch_size / seconds,
        "train_s": seconds,
        "data_wait": loader.waited / seconds,
        "peak_memory_mib": peak_memory_mib(learner.device),
    }


def check_finite(loss: Tensor, batch: Batch, *, step: int, learner: Learner) -> None:
    """Stop the run at a loss that is not finite, and write down the keys of its images.

    Raises:
        UserError: The loss is not finite; the message names the file.
    """
    value = float(loss)
    if math.isfinite(value):
        return
    url = storage.join(learner.config.output, NON_FINITE)
    rate = learner.learning_rate(step)
    content = {"step": step + 1, "loss": str(value), "lr": rate, "images": batch.keys}
    storage.write_bytes(url, json.dumps(content, indent=2).encode())
    raise UserError(
        f"the loss of step {step + 1} is {value} (learning rate {rate:.3g}); its images are listed in "
        f"{storage.redact(url)}. A lower --optimiser.lr, --schedule.warmup or --optimiser.clip may help; the last "
        "checkpoint is from before this step"
    )


def validate_together(learner: Learner, evaluator: Any, job: WorkerJob) -> Validated:
    """Validate on all workers, each with its share, and return the whole result on each.

    Raises:
        UserError: The network's scores are not finite.
    """
    task = job.task
    distributed.broadcast_buffers(learner.evaluated)
    try:
        share = task.validate(evaluator, task.validation[distributed.rank() :: distributed.world_size()])
    except NotFiniteError as error:
        raise UserError(
            f"{error} in validation, so training has diverged. Train into another --output with a lower --optimiser.lr "
            f"than {learner.config.optimiser.lr:g}; --schedule.warmup or --optimiser.clip may help as well"
        ) from None
    for reason in share.unread:
        job.monitor.report_skipped.remote(reason)
    return share.over_workers(learner.device)
