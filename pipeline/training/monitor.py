"""The actor through which training workers report to the driver during a run."""

from typing import Any, NamedTuple

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class StepReport(NamedTuple):
    """The progress of rank 0.

    Attributes:
        step: Steps done in the whole run.
        loss: Mean loss of the epoch so far.
        lr: Learning rate of the last step.
        images_per_s: Images per second in the epoch so far, over all workers.
    """

    step: int = 0
    loss: float = float("nan")
    lr: float = 0.0
    images_per_s: float = 0.0


class EpochReport(NamedTuple):
    """The results of an epoch.

    Attributes:
        record: Record of the epoch, as in `metrics.jsonl`.
        confusion: int64 [classes, classes] of the validation; None if an image may show several classes.
        sheet: PNG of some validation images; empty unless the run is tracked in TensorBoard.
    """

    record: dict[str, Any]
    confusion: np.ndarray | None
    sheet: bytes


@ray.remote(num_cpus=0)
class Monitor:
    """A small actor that holds what workers report until the driver asks for it."""

    def __init__(self) -> None:
        self._last_step = StepReport()
        self._epochs: list[EpochReport] = []
        self._skipped: dict[str, None] = {}
        self._mistake: str | None = None

    def report_step(self, report: StepReport) -> None:
        """Replace the progress of rank 0."""
        self._last_step = report

    def report_epoch(self, report: EpochReport) -> None:
        """Add the results of an epoch."""
        self._epochs.append(report)

    def report_skipped(self, reason: str) -> None:
        """Add a sample that could not be used; the reason names its file."""
        self._skipped[reason] = None

    def report_mistake(self, mistake: str) -> None:
        """Set the message of an error that only the user can correct."""
        self._mistake = mistake

    def get_progress(self, epochs_seen: int) -> tuple[StepReport, list[EpochReport]]:
        """Return the progress of rank 0, and the results of the epochs after the first `epochs_seen`."""
        return self._last_step, self._epochs[epochs_seen:]

    def get_skipped(self) -> list[str]:
        """Return a line for each sample that could not be used."""
        return list(self._skipped)

    def get_mistake(self) -> str | None:
        """Return the message of the user's mistake that ends the run, or None."""
        return self._mistake


def start_monitor() -> Any:
    """Start a `Monitor` on the driver's node, and return its handle; on another node, losing that would end the run."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Monitor.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
