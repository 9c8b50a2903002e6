"""The output of a run on the terminal: a progress bar, a line per epoch, and a summary at the end."""

import math
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

import ray
from tqdm import tqdm

from pipeline.errors import one_line
from pipeline.progress import is_terminal, progress_fields, waiting, write_line
from pipeline.training.config import TrainerConfig
from pipeline.training.monitor import EpochReport
from pipeline.training.task import Measures
from pipeline.training.trackers import Track

LINE_EVERY = 30.0  # seconds between JSON lines if standard error is no terminal


class Display:
    """Shows the progress of a run while its `with` block is executed.

    Args:
        monitor: Handle of the run's `Monitor`.
        config: Configuration of the run.
        measures: Names of the task's scores.
        steps: Steps of the whole run.
        records: Records of the epochs that were done before.
        on_epoch: Function that is called with the results of each new epoch.
    """

    def __init__(
        self,
        monitor: Any,
        config: TrainerConfig,
        measures: Measures,
        *,
        steps: int,
        records: list[dict[str, Any]],
        on_epoch: Track,
    ):
        self._monitor = monitor
        self._config = config
        self._measures = measures
        self._steps = steps
        self._on_epoch = on_epoch
        self._best = max((record[measures.headline] for record in records), default=float("nan"))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._done_before = len(records) * steps // config.epochs
        self._waits = ExitStack()
        self._bar: tqdm | None = None
        self._epochs_shown = 0
        self._last_line = time.monotonic()

    def __enter__(self) -> None:
        self._waits.enter_context(waiting("the workers to load PyTorch and draw the first batch"))
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show()
        self._waits.close()
        if self._bar is not None:
            self._bar.close()
        for reason in ray.get(self._monitor.get_skipped.remote()):
            print(f"skipped: {reason}", file=sys.stderr)

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self._show()

    def _show(self) -> None:
        """Print the epochs that are new, and update the bar."""
        last_step, epochs = ray.get(self._monitor.get_progress.remote(self._epochs_shown))
        if epochs or last_step.step:
            self._begin()
        for epoch in epochs:
            record = epoch.record
            self._epochs_shown += 1
            score = record[self._measures.headline]
            self._best = score if math.isnan(self._best) else max(score, self._best)
            tqdm.write(format_epoch(record, self._measures), file=sys.stdout)
            sys.stdout.flush()
            self._track(epoch)
            self._last_line = time.monotonic()
        if not last_step.step:
            return
        number = min(last_step.step * self._config.epochs // self._steps + 1, self._config.epochs)
        best = "" if math.isnan(self._best) else f"best {self._measures.title} {self._best:.3f}  "
        text = (
            f"epoch {number}/{self._config.epochs}  loss {last_step.loss:.3f}  lr {last_step.lr:.2g}  {best}"
            f"{last_step.images_per_s:.1f} images/s"
        )
        if self._bar is not None:
            self._bar.set_description(text, refresh=False)
            self._bar.n = max(self._bar.n, last_step.step)
            self._bar.refresh()
        elif time.monotonic() - self._last_line > LINE_EVERY and not self._stop.is_set():
            self._last_line = time.monotonic()
            rate = last_step.images_per_s
            left = (self._steps - last_step.step) * self._config.batch_size / rate if rate else None
            counts = {"epoch": number, "epochs": self._config.epochs}
            fields = progress_fields(
                last_step.step, self._steps, rate, None if left is None else round(left), unit="images", counts=counts
            )
            write_line({"stage": "training"} | fields | {"loss": round(last_step.loss, 4)})

    def _begin(self) -> None:
        """Show the bar in place of what was waited for."""
        self._waits.close()
        if self._bar is None and is_terminal():
            options = {"leave": False, "unit": "step", "dynamic_ncols": True}
            self._bar = tqdm(total=self._steps, initial=self._done_before, **options)

    def _track(self, epoch: EpochReport) -> None:
        """Pass an epoch to the trackers; if one fails, for example because its server is down, training goes on."""
        try:
            self._on_epoch(epoch)
        except Exception as error:
            tqdm.write(f"epoch {epoch.record['epoch']} was not tracked: {one_line(error)}", file=sys.stderr)


def format_epoch(record: dict[str, Any], measures: Measures) -> str:
    """Format the record of an epoch as a line."""
    mark = "  best" if record["best"] else ""
    skipped = f"  {record['skipped']} skipped" if record.get("skipped") else ""
    return (
        f"epoch {record['epoch']}/{record['epochs']}  loss {record['loss']:.4f}  "
        f"{measures.title} {record[measures.headline]:.4f}  "
        f"{record['images_per_s']:.1f} images/s  waited {record['data_wait']:.0%} for data{mark}{skipped}"
    )


def format_training(config: TrainerConfig, measures: Measures, records: list[dict[str, Any]]) -> str:
    """Format the best epoch's scores, in all and by class, and the place of the bundle."""
    best = max(records, key=lambda record: record[measures.headline])
    scores = ", ".join(f"{title} {best[key]:.4f}" for key, title in measures.titles_of([best]).items())
    lines = [f"\nbest: epoch {best['epoch']}, {scores}"]
    by_class = best[measures.by_class]
    width = max(map(len, by_class))
    for name, value in by_class.items():
        lines.append(f"  {name:<{width}}  {'absent' if value is None else f'{value:.4f}'}")
    return "\n".join([*lines, f"bundle: {config.output}"])
