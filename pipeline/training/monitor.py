"""What the driver, the training workers and the data tasks tell each other during a run."""

from typing import Any

import ray


@ray.remote(num_cpus=0)
class Monitor:
    """A small actor: data tasks ask it for the epoch, workers report to it, the driver shows what it holds."""

    def __init__(self) -> None:
        self._epoch = 0
        self._step = (0, 0, 0.0)
        self._records: list[dict[str, Any]] = []
        self._skipped: dict[str, None] = {}
        self._mistake: str | None = None

    def begin_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def get_epoch(self) -> int:
        return self._epoch

    def step(self, done: int, of: int, loss: float) -> None:
        """Rank 0 has done `done` of the epoch's `of` steps; `loss` is its running mean."""
        self._step = (done, of, loss)

    def skipped(self, reason: str) -> None:
        """A sample could not be read; `reason` names the file."""
        self._skipped[reason] = None

    def get_skipped(self) -> list[str]:
        return list(self._skipped)

    def fail(self, mistake: str) -> None:
        """A worker met something that the user has to mend."""
        self._mistake = mistake

    def get_mistake(self) -> str | None:
        return self._mistake

    def epoch_done(self, record: dict[str, Any]) -> None:
        self._records.append(record)

    def progress(self, records_seen: int) -> tuple[int, tuple[int, int, float], list[dict[str, Any]]]:
        """The epoch, its steps, and the epochs' records beyond the first `records_seen`."""
        return self._epoch, self._step, self._records[records_seen:]
