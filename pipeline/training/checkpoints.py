"""Checkpoints of a run, which hold all that a resumed run needs to end with the same bits.

Ray Train writes one after each epoch, in the background, and keeps the last; the best epoch is the bundle. A checkpoint
holds neither random states nor the position in the data, because both follow from the seed and the epoch.
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
    """The progress of a run.

    Attributes:
        epoch: Number of epochs done.
        best: Best headline score so far; -1 before the first epoch.
        records: Records of the epochs done, as in `metrics.jsonl`.
    """

    epoch: int = 0
    best: float = -1.0
    records: list[dict[str, Any]] = field(default_factory=list)


def store(learner: Learner, progress: Progress, *, rank: int, before_upload: Callable[[], None]) -> None:
    """Report an epoch to Ray Train, which every worker must do; rank 0 adds the checkpoint.

    Args:
        learner: Learner after the epoch; it is copied before this function returns.
        progress: Progress that includes the epoch's record.
        rank: Number of this worker.
        before_upload: Writes what must be on storage before the checkpoint; it runs in the background.
    """
    record = progress.records[-1]
    metrics = {"epoch": record["epoch"], "loss": record["loss"], "best": progress.best}
    if rank != 0:
        ray.train.report(metrics)
        return
    folder = tempfile.mkdtemp(prefix="checkpoint-")  # Ray removes it after the upload
    content = learner.state_dict() | {
        "epoch": progress.epoch,
        "best": progress.best,
        "records": progress.records,
    }
    torch.save(content, Path(folder) / FILE)
    run_storage = ray.train.get_context().get_storage()

    def upload(checkpoint: Any, name: str) -> Any:
        before_upload()
        return run_storage.persist_current_checkpoint(checkpoint, name)

    ray.train.report(
        metrics,
        checkpoint=ray.train.Checkpoint.from_directory(folder),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=upload,
    )


def restore(learner: Learner) -> Progress:
    """Load the last checkpoint into the learner, and return the run's progress; a new run starts from the beginning."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return Progress()
    with checkpoint.as_directory() as folder:
        data = (Path(folder) / FILE).read_bytes()
    content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    learner.load_state_dict(content)
    return Progress(epoch=content["epoch"], best=content["best"], records=content["records"])


def remove_unregistered(output: str) -> None:
    """Remove the checkpoints that Ray Train does not know, which a driver leaves when it is killed."""
    folder = storage.join(output, FOLDER)
    snapshot = storage.read_text(storage.join(folder, "checkpoint_manager_snapshot.json"), noun="list of checkpoints")
    fs, _ = storage.filesystem(folder)
    for path in {posixpath.dirname(file.path) for file in storage.list_files(folder)}:
        name = posixpath.basename(path)
        if name.startswith("checkpoint_") and f'"{name}"' not in snapshot:
            fs.rm(path, recursive=True)
