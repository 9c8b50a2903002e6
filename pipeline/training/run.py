"""A training run, seen from the driver: check everything, start Ray Train, display the progress, write the report."""

import functools
from typing import Any

import pyarrow.fs
import ray
import ray.train
import ray.train.torch
import torch

from pipeline import allocator, cluster, models, storage
from pipeline.cpu import warn_of_emulation
from pipeline.errors import UserError
from pipeline.stop import stop_on_sigterm, stoppable
from pipeline.training import checkpoints, restarts
from pipeline.training.config import TrainerConfig
from pipeline.training.display import Display
from pipeline.training.examples import TrainingData
from pipeline.training.learner import Learner
from pipeline.training.loop import WorkerJob, train_worker
from pipeline.training.monitor import start_monitor
from pipeline.training.network import architecture_of, build_network
from pipeline.training.records import claim_output, read_records
from pipeline.training.report import REPORT, write_report
from pipeline.training.task import Measures, Task
from pipeline.training.trackers import trackers


def train(config: TrainerConfig, task: Task, data: TrainingData) -> list[dict[str, Any]]:
    """Train, or resume the run in the output.

    Args:
        config: Configuration of the run.
        task: What is learnt: see `segmentation.task.segmentation_task` and `classification.task.classification_task`.
        data: What it is learnt from.

    Returns:
        One record per epoch, as in `metrics.jsonl`.

    Raises:
        UserError: The user has to change something; raised before a worker starts where possible.
        IncompleteError: The run was stopped by SIGTERM, or its workers die again and again.
    """
    with stoppable(lambda: f"{len(read_records(config.output))} of {config.epochs} epochs are done"):
        return _train(config, task, data)


def _train(config: TrainerConfig, task: Task, data: TrainingData) -> list[dict[str, Any]]:
    check(config, task)
    records = read_records(config.output)
    if len(records) >= config.epochs and task.finished:
        print(f"{storage.redact(config.output)}: all {config.epochs} epochs are done already")
        if not storage.exists(storage.join(config.output, REPORT)):  # the driver was killed before it wrote the report
            print(f"report: {write_report(config, task, records)}")
        return records
    # Ray Train asks the dashboard's state API about its controller.
    cluster.connect(dashboard=True, ray_logs=config.scaling.wait_for_nodes)
    stop_on_sigterm()  # Ray has set a handler of its own
    scaling = config.scaling
    if not scaling.use_gpu:
        warn_of_emulation(config.dtype)
    if not scaling.wait_for_nodes:
        cluster.require(
            workers=scaling.min_workers or scaling.num_workers,
            cpus_per_worker=scaling.cpus_per_worker,
            use_gpu=scaling.use_gpu,
            spare_cpus=1,
            noun="training",
            flag="--scaling.min-workers" if scaling.min_workers else "--scaling.num-workers",
        )
    steps = config.steps_per_epoch(data.table.num_rows)
    print(
        f"{len(task.classes)} classes, {data.table.num_rows} training and {len(task.validation)} validation images, "
        f"{config.epochs} epochs of {steps} steps x {config.batch_size} images"
        + (f"; resuming, {len(records)} epochs are recorded" if records else "")
    )
    data = task.prepare(data)
    if len(records) < config.epochs:
        _fit(config, task, data, steps, records)
        records = read_records(config.output)
    task.finish(data, best_record(records, task.measures))
    print(f"report: {write_report(config, task, records)}")
    return records


def best_record(records: list[dict[str, Any]], measures: Measures) -> dict[str, Any]:
    """Return the record of the best epoch, whose weights are in the bundle."""
    return max(records, key=lambda record: record[measures.headline])


def check(config: TrainerConfig, task: Task) -> None:
    """Check all that can be checked before a worker starts, and claim the output.

    Raises:
        UserError: The user has to change something.
    """
    _check_network(config, task)
    storage.check_writable(config.output)
    claim_output(config)


def _check_network(config: TrainerConfig, task: Task) -> None:
    """Build the network as a worker does, so that mistakes are reported here, and print its number of parameters."""
    model = architecture_of(config, task.name)
    workers = config.scaling.num_workers
    if (config.scaling.min_workers or 0) > workers:
        raise UserError(f"--scaling.min-workers {config.scaling.min_workers} is above --scaling.num-workers {workers}")
    accumulate = config.optimiser.accumulate
    if config.batch_size // workers // accumulate < model.min_training_batch:
        parts = f" and --optimiser.accumulate {accumulate}" if accumulate > 1 else ""
        raise UserError(
            f"{config.model} needs at least {model.min_training_batch} images per worker and pass to train; "
            f"--batch-size is {config.batch_size} for {workers} workers{parts}"
        )
    network, loaded = build_network(config, task.classes)
    parameters = models.count_parameters(network)
    cpu = torch.device("cpu")
    Learner(
        network,
        config=config.model_copy(update={"compile": False}),
        objective=task.objective(network, cpu),
        num_classes=len(task.classes),
        steps=1,
        device=cpu,
    )
    learning = models.count_parameters(network)
    print(
        f"{config.model}: {parameters / 1e6:.2f} M parameters"
        + (f", {(parameters - learning) / 1e6:.2f} M of them frozen" if learning < parameters else "")
    )
    if loaded is not None:
        print(f"weights: {loaded}")


def _fit(config: TrainerConfig, task: Task, data: TrainingData, steps: int, records: list[dict[str, Any]]) -> None:
    monitor = start_monitor()
    fs, path = storage.filesystem(config.output)
    scaling = config.scaling
    job = WorkerJob(
        config=config,
        task=task,
        draw=ray.put(data.draw),
        table=ray.put(data.table),
        steps_per_epoch=steps,
        monitor=monitor,
    )
    make_trainer = functools.partial(
        ray.train.torch.TorchTrainer,
        functools.partial(train_worker, job),
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
            worker_runtime_env=None if scaling.use_gpu else {"env_vars": allocator.keep_freed(allocator.UNLIMITED)},
        ),
    )
    with (
        trackers(config, task.measures) as track,
        Display(monitor, config, task.measures, steps=steps * config.epochs, records=records, on_epoch=track),
    ):
        restarts.fit(make_trainer, restarts=scaling.max_failures)
    mistake = ray.get(monitor.get_mistake.remote())
    if mistake is not None:
        raise UserError(mistake)
    checkpoints.remove_unregistered(config.output)
