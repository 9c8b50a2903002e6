"""A training run from the driver: check everything, start Ray Train, show how it goes."""

import sys
from typing import Any

import pyarrow.fs
import ray
import ray.train
import ray.train.torch
import torch

from pipeline import cluster, models, storage
from pipeline.classes import Classes, load_classes
from pipeline.datasets import Sample, pair, read_list
from pipeline.errors import UserError
from pipeline.training import checkpoints
from pipeline.training.class_weights import class_weights
from pipeline.training.config import Split, TrainConfig
from pipeline.training.display import Display
from pipeline.training.learner import Learner
from pipeline.training.loop import train_worker
from pipeline.training.monitor import Monitor
from pipeline.training.network import build_network
from pipeline.training.records import claim_output, read_records
from pipeline.training.report import REPORT, write_report
from pipeline.training.stream import DrawCrops, as_table
from pipeline.training.trackers import trackers


def train(config: TrainConfig) -> list[dict[str, Any]]:
    """Train, or go on with the run that lies in the output.

    Returns:
        A record per epoch, as in `metrics.jsonl`.

    Raises:
        UserError: anything that the user has to mend, where possible before a worker starts.
    """
    classes, train_samples, val_samples = check(config)
    records = read_records(config.output)
    if len(records) >= config.epochs:
        print(f"{storage.redact(config.output)}: all {config.epochs} epochs are done already")
        if not storage.exists(storage.join(config.output, REPORT)):  # the driver died just before it
            print(f"report: {write_report(config, classes, val_samples, records)}")
        return records
    # Ray Train asks the dashboard's state API about its controller.
    cluster.connect(dashboard=True, ray_logs=config.scaling.wait_for_nodes)
    scaling = config.scaling
    if not scaling.wait_for_nodes:
        cluster.require(
            workers=scaling.min_workers or scaling.num_workers,
            cpus_per_worker=scaling.cpus_per_worker,
            use_gpu=scaling.use_gpu,
            spare_cpus=1,
            what="training",
        )
    print(
        f"{len(classes)} classes, {len(train_samples)} training and {len(val_samples)} validation images, "
        f"{config.epochs} epochs of {config.steps_per_epoch(len(train_samples))} steps x {config.batch_size} crops"
        + (f"; resuming, {len(records)} epochs are recorded" if records else "")
    )
    _fit(config, classes, train_samples, val_samples, records)
    records = read_records(config.output)
    print(f"report: {write_report(config, classes, val_samples, records)}")
    return records


def check(config: TrainConfig) -> tuple[Classes, list[Sample], list[Sample]]:
    """All that can be refused before a worker starts; the classes, training and validation samples."""
    try:
        model = models.configure(config.model, config.model_options)
    except ValueError as error:
        raise UserError(str(error)) from None
    workers = config.scaling.num_workers
    if (config.scaling.min_workers or 0) > workers:
        raise UserError(f"--scaling.min_workers {config.scaling.min_workers} is above --scaling.num_workers {workers}")
    if config.batch_size // workers < model.min_training_batch:
        raise UserError(
            f"{config.model} needs at least {model.min_training_batch} images per worker to train; --batch_size is "
            f"{config.batch_size} for {workers} workers"
        )
    classes = load_classes(config.classes)
    train_samples, val_samples = _samples(config.train, "train"), _samples(config.val, "val")
    _check_network(config, classes)
    storage.check_writable(config.output)
    claim_output(config)
    return classes, train_samples, val_samples


def _check_network(config: TrainConfig, classes: Classes) -> None:
    """Build what a worker will, so that it is refused here if it does not work; say what learns."""
    weights = config.loss.class_weights
    if weights and len(weights) != len(classes):
        raise UserError(f"--loss.class_weights has {len(weights)} numbers for {len(classes)} classes")
    network, loaded = build_network(config, classes)
    parameters = models.count_parameters(network)
    Learner(
        network,
        config=config.model_copy(update={"compile": False}),
        num_classes=len(classes),
        ignore_index=classes.ignore_index,
        steps=1,
        device=torch.device("cpu"),
    )
    learning = models.count_parameters(network)
    print(
        f"{config.model}: {parameters / 1e6:.2f} M parameters"
        + (f", {(parameters - learning) / 1e6:.2f} M of them frozen" if learning < parameters else "")
    )
    if loaded is not None:
        print(f"weights: {loaded}")


def _samples(split: Split, name: str) -> list[Sample]:
    found = pair(split.images, split.labels, keys=read_list(split.list) if split.list else None)
    if found.without_label:
        print(
            f"{name}: {len(found.without_label)} images have no label map and are left out, the first: "
            f"{found.without_label[0]}",
            file=sys.stderr,
        )
    if not found.samples:
        raise UserError(
            f"{name}: no image in {storage.redact(split.images)} has a label map of the same name in "
            f"{storage.redact(split.labels)}"
        )
    return found.samples


def _fit(
    config: TrainConfig,
    classes: Classes,
    train_samples: list[Sample],
    val_samples: list[Sample],
    records: list[dict[str, Any]],
) -> None:
    monitor = Monitor.remote()  # type: ignore[attr-defined]
    fs, path = storage.filesystem(config.output)
    scaling = config.scaling
    steps = config.steps_per_epoch(len(train_samples))
    draw = DrawCrops(
        augmentation=config.augmentation, classes=classes, preprocessing=config.preprocessing, seed=config.seed
    )
    job = {
        "config": config,
        "classes": classes,
        "class_weights": class_weights(config, classes, train_samples),
        "draw": ray.put(draw),
        "table": ray.put(as_table(train_samples)),
        "val": val_samples,
        "steps": steps,
        "monitor": monitor,
    }
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config=job,
        scaling_config=ray.train.ScalingConfig(
            num_workers=(scaling.min_workers, scaling.num_workers) if scaling.min_workers else scaling.num_workers,
            use_gpu=scaling.use_gpu,
            resources_per_worker={"CPU": scaling.cpus_per_worker} | ({"GPU": 1} if scaling.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=checkpoints.FOLDER,
            storage_path=path,
            storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)),
            failure_config=ray.train.FailureConfig(max_failures=scaling.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )
    with (
        trackers(config) as track,
        Display(monitor, config, steps=steps * config.epochs, records=records, on_epoch=track),
    ):
        trainer.fit()
    mistake = ray.get(monitor.get_mistake.remote())
    if mistake is not None:
        raise UserError(mistake)
    checkpoints.sweep(config.output)
