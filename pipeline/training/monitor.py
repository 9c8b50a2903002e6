"""What the driver and the training workers tell each other during a run."""

from typing import Any, NamedTuple

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class Pace(NamedTuple):
    """Where rank 0 is: steps of the whole run, the epoch's mean loss so far, learning rate, images per second."""

    step: int = 0
    loss: float = float("nan")
    lr: float = 0.0
    images_per_s: float = 0.0


class Epoch(NamedTuple):
    """What the workers tell of an epoch.

    Attributes:
        record: as in `metrics.jsonl`.
        confusion: int64 [classes, classes] of the validation; None where a class does not exclude another.
        sheet: PNG of some validation images; empty unless asked for.
    """

    record: dict[str, Any]
    confusion: np.ndarray | None
    sheet: bytes


@ray.remote(num_cpus=0)
class Monitor:
    """A small actor: workers report to it, the driver shows what it holds."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._epochs: list[Epoch] = []
        self._skipped: dict[str, None] = {}
        self._mistake: str | None = None

    def step(self, *pace: float) -> None:
        """Rank 0 has got so far; the fields of `Pace`."""
        self._pace = Pace(*pace)  # type: ignore[arg-type]

    def skipped(self, reason: str) -> None:
        """A sample could not be used; `reason` names the file."""
        self._skipped[reason] = None

    def get_skipped(self) -> list[str]:
        return list(self._skipped)

    def fail(self, mistake: str) -> None:
        """A worker met something that the user has to mend."""
        self._mistake = mistake

    def get_mistake(self) -> str | None:
        return self._mistake

    def epoch_done(self, epoch: Epoch) -> None:
        self._epochs.append(epoch)

    def progress(self, seen: int) -> tuple[Pace, list[Epoch]]:
        """The pace, and the epochs beyond the first `seen`."""
        return self._pace, self._epochs[seen:]


def start_monitor() -> Any:
    """A handle of a new `Monitor` on the driver's node: on another, the loss of that node would end the run."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Monitor.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
