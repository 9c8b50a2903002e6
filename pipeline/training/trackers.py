"""Where the course of a run goes besides `metrics.jsonl`: TensorBoard and MLflow, both optional extras."""

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline import storage
from pipeline.errors import UserError
from pipeline.report.charts import draw_confusion
from pipeline.training.config import TrainerConfig
from pipeline.training.monitor import Epoch
from pipeline.training.task import Measures

TENSORBOARD = "tensorboard"
COMMON = ("loss", "lr", "images_per_s", "data_wait", "peak_memory_mib")


Track = Callable[[Epoch], None]


def scalars(record: dict[str, Any], measures: Measures) -> dict[str, float]:
    """The numbers of a record by name; those of classes are `iou/<class>` or alike."""
    scores = record[measures.by_class]
    by_class = {f"{measures.by_class}/{name}": score for name, score in scores.items() if score is not None}
    return {name: record[name] for name in (*COMMON, *measures.titles)} | by_class


@contextmanager
def trackers(config: TrainerConfig, measures: Measures) -> Iterator[Track]:
    """A function that sends an epoch to all trackers of the configuration.

    Raises:
        UserError: an extra is not installed, or a server is not named.
    """
    with ExitStack() as stack:
        chosen: list[Track] = []
        if config.tracking.tensorboard:
            chosen.append(stack.enter_context(_tensorboard(config, measures)))
        if config.tracking.mlflow:
            chosen.append(stack.enter_context(_mlflow(config, measures)))

        def track(epoch: Epoch) -> None:
            for one in chosen:
                one(epoch)

        yield track


@contextmanager
def _tensorboard(config: TrainerConfig, measures: Measures) -> Iterator[Track]:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError("--tracking.tensorboard needs: pip install 'segpipe[tensorboard]'") from None
    # Written here and uploaded whole after each epoch: object stores cannot append.
    with tempfile.TemporaryDirectory(prefix="tensorboard-") as folder:
        writer = SummaryWriter(folder)

        def upload() -> None:
            for file in Path(folder).iterdir():
                storage.upload(file, storage.join(config.output, TENSORBOARD, file.name))

        def track(epoch: Epoch) -> None:
            step = epoch.record["epoch"]
            for name, value in scalars(epoch.record, measures).items():
                writer.add_scalar(name, value, step)
            if epoch.confusion is not None:
                drawn = draw_confusion(epoch.confusion, list(epoch.record[measures.by_class]))
                writer.add_image("confusion", _pixels(drawn), step, dataformats="HWC")
            if epoch.sheet:
                writer.add_image("validation", _pixels(epoch.sheet), step, dataformats="HWC")
            writer.flush()
            upload()

        try:
            yield track
        finally:
            writer.close()  # a thread of its writes; only now all of it is there
            upload()


@contextmanager
def _mlflow(config: TrainerConfig, measures: Measures) -> Iterator[Track]:
    try:
        import mlflow
    except ImportError:
        raise UserError("--tracking.mlflow needs: pip install 'segpipe[mlflow]'") from None
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UserError("--tracking.mlflow: the environment variable MLFLOW_TRACKING_URI must name the server")
    try:
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "segpipe"))
    except mlflow.exceptions.MlflowException as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--tracking.mlflow: the server cannot be used ({reason})") from None
    # A run is known by its output, so that a resumed one goes on where it was.
    name = storage.redact(config.output)
    known = mlflow.search_runs(filter_string=f"tags.output = '{name}'", output_format="list", max_results=1)
    with mlflow.start_run(run_id=known[0].info.run_id if known else None, run_name=None if known else name):
        if not known:
            mlflow.set_tag("output", name)
            mlflow.log_params({k: str(v)[:500] for k, v in config.deciding_options().items()})

        def track(epoch: Epoch) -> None:
            mlflow.log_metrics(scalars(epoch.record, measures), step=epoch.record["epoch"])

        yield track


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
