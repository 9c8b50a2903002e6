"""A training run from the driver: check everything, start Ray Train, show how it goes."""

import sys
import threading
from typing import Any

import pyarrow.fs
import ray
import ray.data
import ray.train
import ray.train.torch
from tqdm import tqdm

from pipeline import cluster, models, storage
from pipeline.classes import Classes, load_classes
from pipeline.datasets import Sample, pair, read_list
from pipeline.errors import UserError
from pipeline.training.config import Split, TrainConfig
from pipeline.training.loop import build_network, load_weights, train_worker
from pipeline.training.monitor import Monitor
from pipeline.training.records import claim_output, read_records
from pipeline.training.stream import training_stream

CHECKPOINTS = "checkpoints"


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
        return records
    # Ray Train asks the dashboard's state API about its controller.
    cluster.connect(dashboard=True, ray_logs=config.scaling.wait_for_nodes)
    scaling = config.scaling
    if not scaling.wait_for_nodes:
        cluster.require(
            workers=scaling.num_workers,
            cpus_per_worker=scaling.cpus_per_worker,
            use_gpu=scaling.use_gpu,
            spare_cpus=1,
            what="training",
        )
    parameters = models.count_parameters(build_network(config, classes))
    print(
        f"{config.model}: {parameters / 1e6:.2f} M parameters, {len(classes)} classes, {len(train_samples)} training "
        f"and {len(val_samples)} validation images, {config.epochs} epochs of "
        f"{config.steps_per_epoch(len(train_samples))} steps x {config.batch_size} crops"
        + (f"; resuming, {len(records)} epochs are recorded" if records else "")
    )
    _fit(config, classes, train_samples, val_samples)
    return read_records(config.output)


def check(config: TrainConfig) -> tuple[Classes, list[Sample], list[Sample]]:
    """All that can be refused before a worker starts; the classes, training and validation samples."""
    try:
        model = models.configure(config.model, config.model_options)
    except ValueError as error:
        raise UserError(str(error)) from None
    if config.batch_size % config.scaling.num_workers:
        raise UserError(f"--batch_size {config.batch_size} does not divide among {config.scaling.num_workers} workers")
    if config.batch_size // config.scaling.num_workers < model.min_training_batch:
        raise UserError(
            f"{config.model} needs at least {model.min_training_batch} images per worker to train; --batch_size is "
            f"{config.batch_size} for {config.scaling.num_workers} workers"
        )
    classes = load_classes(config.classes)
    train_samples, val_samples = _samples(config.train, "train"), _samples(config.val, "val")
    if config.weights is not None:
        print(f"weights: {load_weights(build_network(config, classes), config.weights)}")
    storage.check_writable(config.output)
    claim_output(config)
    return classes, train_samples, val_samples


def _samples(split: Split, name: str) -> list[Sample]:
    found = pair(split.images, split.labels, keys=read_list(split.list) if split.list else None)
    if found.without_label:
        print(f"{name}: {len(found.without_label)} images have no label map and are left out", file=sys.stderr)
    if not found.samples:
        raise UserError(
            f"{name}: no image in {storage.redact(split.images)} has a label map of the same name in "
            f"{storage.redact(split.labels)}"
        )
    return found.samples


def _fit(config: TrainConfig, classes: Classes, train_samples: list[Sample], val_samples: list[Sample]) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    options = ray.data.ExecutionOptions()
    options.preserve_order = True  # the same seed gives the same batches
    monitor = Monitor.remote()  # type: ignore[attr-defined]
    fs, path = storage.filesystem(config.output)
    job = {
        "config": config,
        "classes": classes,
        "val": val_samples,
        "steps": config.steps_per_epoch(len(train_samples)),
        "monitor": monitor,
    }
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config=job,
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.scaling.num_workers,
            use_gpu=config.scaling.use_gpu,
            resources_per_worker={"CPU": config.scaling.cpus_per_worker}
            | ({"GPU": 1} if config.scaling.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=path,
            storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)),
            failure_config=ray.train.FailureConfig(max_failures=config.scaling.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
        datasets={"train": training_stream(config, train_samples, classes, monitor)},
        dataset_config=ray.train.DataConfig(execution_options=options),
    )
    with _Display(monitor, config):
        trainer.fit()
    mistake = ray.get(monitor.get_mistake.remote())
    if mistake is not None:
        raise UserError(mistake)


class _Display:
    """Shows a line per finished epoch and, on a terminal, a bar within the epoch."""

    def __init__(self, monitor: Any, config: TrainConfig):
        self._monitor = monitor
        self._epochs = config.epochs
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._bar = tqdm(disable=not sys.stderr.isatty(), leave=False, unit="step", dynamic_ncols=True)
        self._seen = 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show()
        self._bar.close()
        for reason in ray.get(self._monitor.get_skipped.remote()):
            print(f"skipped: {reason}", file=sys.stderr)

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self._show()

    def _show(self) -> None:
        epoch, (step, steps, loss), records = ray.get(self._monitor.progress.remote(self._seen))
        for record in records:
            self._seen += 1
            self._bar.write(describe(record), file=sys.stdout)
            sys.stdout.flush()
        self._bar.total, self._bar.n = steps, step
        self._bar.set_description(f"epoch {epoch + 1}/{self._epochs} loss {loss:.3f}")


def describe(record: dict[str, Any]) -> str:
    """The progress line of an epoch."""
    mark = "  best" if record["best"] else ""
    skipped = f"  {record['skipped']} skipped" if record.get("skipped") else ""
    return (
        f"epoch {record['epoch']}/{record['epochs']}  loss {record['loss']:.4f}  mIoU {record['miou']:.4f}  "
        f"{record['images_per_s']:.1f} images/s{mark}{skipped}"
    )


def summarise(config: TrainConfig, records: list[dict[str, Any]]) -> str:
    """The best epoch by class, and where its bundle lies."""
    best = max(records, key=lambda record: record["miou"])
    lines = [f"\nbest: epoch {best['epoch']}, mIoU {best['miou']:.4f}, pixel accuracy {best['pixel_accuracy']:.4f}"]
    width = max(map(len, best["iou"]))
    for name, iou in best["iou"].items():
        lines.append(f"  {name:<{width}}  {'absent' if iou is None else f'{iou:.4f}'}")
    return "\n".join([*lines, f"bundle: {config.output}"])
