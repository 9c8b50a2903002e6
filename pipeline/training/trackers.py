"""Tracking of a run in TensorBoard and MLflow, both optional extras, besides `metrics.jsonl`."""

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
from pipeline.errors import UserError, one_line
from pipeline.secrets import redact_all
from pipeline.training.config import TrainerConfig
from pipeline.training.monitor import EpochReport
from pipeline.training.task import Measures

TENSORBOARD = "tensorboard"
COMMON = ("loss", "lr", "images_per_s", "data_wait", "peak_memory_mib")

Track = Callable[[EpochReport], None]


def scalars(record: dict[str, Any], measures: Measures) -> dict[str, float]:
    """Return the numbers of a record by name; the score of a class is named as in `iou/<class>`."""
    scores = record[measures.by_class]
    by_class = {f"{measures.by_class}/{name}": score for name, score in scores.items() if score is not None}
    return {name: record[name] for name in (*COMMON, *measures.titles)} | by_class


@contextmanager
def trackers(config: TrainerConfig, measures: Measures) -> Iterator[Track]:
    """Yield a function that passes an epoch to all trackers of the configuration.

    Raises:
        UserError: An extra is not installed, or the MLflow server is not named or cannot be used.
    """
    with ExitStack() as stack:
        tracks: list[Track] = []
        if config.tracking.tensorboard:
            tracks.append(stack.enter_context(_tensorboard(config, measures)))
        if config.tracking.mlflow:
            tracks.append(stack.enter_context(_mlflow(config, measures)))

        def track_all(epoch: EpochReport) -> None:
            for track in tracks:
                track(epoch)

        yield track_all


@contextmanager
def _tensorboard(config: TrainerConfig, measures: Measures) -> Iterator[Track]:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError("--tracking.tensorboard needs: pip install 'segpipe[tensorboard]'") from None
    from pipeline.report.charts import draw_confusion  # matplotlib

    # The events go to a local folder, which is uploaded after each epoch, because object stores cannot append.
    with tempfile.TemporaryDirectory(prefix="tensorboard-") as folder:
        writer = SummaryWriter(folder)

        def upload() -> None:
            for file in Path(folder).iterdir():
                storage.upload(file, storage.join(config.output, TENSORBOARD, file.name))

        def track(epoch: EpochReport) -> None:
            step = epoch.record["epoch"]
            for name, value in scalars(epoch.record, measures).items():
                writer.add_scalar(name, value, step)
            if epoch.confusion is not None:
                chart = draw_confusion(epoch.confusion, list(epoch.record[measures.by_class]))
                writer.add_image("confusion", _pixels(chart), step, dataformats="HWC")
            if epoch.sheet:
                writer.add_image("validation", _pixels(epoch.sheet), step, dataformats="HWC")
            writer.flush()
            upload()

        try:
            yield track
        finally:
            writer.close()  # a thread of the writer's writes the file, which is complete only now
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
        raise UserError(f"--tracking.mlflow: the server cannot be used ({one_line(error)})") from None
    # The output identifies the run, so that a resumed run goes on in the same MLflow run.
    name = storage.redact(config.output)
    quote = '"' if "'" in name else "'"
    runs = mlflow.search_runs(filter_string=f"tags.output = {quote}{name}{quote}", output_format="list", max_results=1)
    with mlflow.start_run(run_id=runs[0].info.run_id if runs else None, run_name=None if runs else name) as run:
        if not runs:
            mlflow.set_tag("output", name)
            mlflow.log_params({k: str(v)[:500] for k, v in redact_all(config.deciding_options()).items()})

        def track(epoch: EpochReport) -> None:
            # Epochs are shown by a thread, in which MLflow would begin a run of its own.
            step = epoch.record["epoch"]
            mlflow.log_metrics(scalars(epoch.record, measures), step=step, run_id=run.info.run_id)

        yield track


def _pixels(png: bytes) -> np.ndarray:
    """Decode a PNG to uint8 [height, width, 3]."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
