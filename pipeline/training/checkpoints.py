"""Checkpoints of a run: all that it needs to go on as if it had never stopped.

Ray Train writes one after each epoch, in the background, and keeps the last; the best is the bundle. Of random numbers
and the place in the data nothing has to be stored: both follow from the seed and the epoch.
"""

import io
import posixpath
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import torch

from pipeline import storage
from pipeline.training.learner import Learner

FOLDER = "checkpoints"
FILE = "state.pt"


@dataclass
class Progress:
    """How far a run is: epochs done, and their records, as in `metrics.jsonl`."""

    epoch: int = 0
    best: float = -1.0
    records: list[dict[str, Any]] = field(default_factory=list)


def store(learner: Learner, progress: Progress, *, rank: int, first: Callable[[], None]) -> None:
    """Hand the epoch to Ray Train, which every worker must do; rank 0's has the checkpoint.

    Args:
        learner: is copied before this returns.
        progress: with the record of the epoch.
        rank: of this worker.
        first: what must lie on storage before the checkpoint does; it runs in the background, too.
    """
    record = progress.records[-1]
    metrics = {"epoch": record["epoch"], "loss": record["loss"], "best": progress.best}
    if rank != 0:
        ray.train.report(metrics)
        return
    folder = tempfile.mkdtemp(prefix="checkpoint-")  # Ray removes it once it is uploaded
    content = learner.state_dict() | {
        "epoch": progress.epoch,
        "best": progress.best,
        "records": progress.records,
    }
    torch.save(content, Path(folder) / FILE)
    place = ray.train.get_context().get_storage()

    def upload(checkpoint: Any, name: str) -> Any:
        first()
        return place.persist_current_checkpoint(checkpoint, name)

    ray.train.report(
        metrics,
        checkpoint=ray.train.Checkpoint.from_directory(folder),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=upload,
    )


def restore(learner: Learner) -> Progress:
    """Go on from the last checkpoint, or from the beginning where there is none."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return Progress()
    with checkpoint.as_directory() as folder:
        data = (Path(folder) / FILE).read_bytes()
    content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    learner.load_state_dict(content)
    return Progress(epoch=content["epoch"], best=content["best"], records=content["records"])


def sweep(output: str) -> None:
    """Remove what no run goes on from: a driver that is killed leaves a checkpoint that Ray Train does not know."""
    folder = storage.join(output, FOLDER)
    known = storage.read_text(storage.join(folder, "checkpoint_manager_snapshot.json"), noun="list of checkpoints")
    fs, _ = storage.filesystem(folder)
    for place in {posixpath.dirname(file.path) for file in storage.list_files(folder)}:
        name = posixpath.basename(place)
        if name.startswith("checkpoint_") and f'"{name}"' not in known:
            fs.rm(place, recursive=True)
