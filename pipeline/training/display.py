"""What one sees of a run: a live bar on a terminal, a line per epoch everywhere, a summary at the end."""

import math
import sys
import threading
import time
from typing import Any

import ray
from tqdm import tqdm

from pipeline.training.config import TrainerConfig
from pipeline.training.monitor import Epoch
from pipeline.training.task import Measures
from pipeline.training.trackers import Track

LINE_EVERY = 60.0  # seconds between lines within an epoch where there is no terminal


class Display:
    """Shows a run while its block is executed.

    Args:
        monitor: the run's `Monitor`.
        config: of the run.
        measures: how its scores are called.
        steps: of the whole run.
        records: of epochs done before.
        on_epoch: is called with each new epoch.
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
        self._live = sys.stderr.isatty()
        self._bar = tqdm(
            total=steps,
            initial=len(records) * steps // config.epochs,
            disable=not self._live,
            leave=False,
            unit="step",
            dynamic_ncols=True,
        )
        self._seen = 0
        self._last_line = time.monotonic()

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
        pace, epochs = ray.get(self._monitor.progress.remote(self._seen))
        for epoch in epochs:
            record = epoch.record
            self._seen += 1
            score = record[self._measures.headline]
            self._best = score if math.isnan(self._best) else max(score, self._best)
            self._bar.write(format_epoch(record, self._measures), file=sys.stdout)
            sys.stdout.flush()
            self._track(epoch)
            self._last_line = time.monotonic()
        if not pace.step:
            return
        number = min(pace.step * self._config.epochs // self._steps + 1, self._config.epochs)
        best = "" if math.isnan(self._best) else f"best {self._measures.title} {self._best:.3f}  "
        text = (
            f"epoch {number}/{self._config.epochs}  loss {pace.loss:.3f}  lr {pace.lr:.2g}  {best}"
            f"{pace.images_per_s:.1f} images/s"
        )
        self._bar.set_description(text, refresh=False)
        self._bar.n = max(self._bar.n, pace.step)
        self._bar.refresh()
        if not self._live and time.monotonic() - self._last_line > LINE_EVERY and not self._stop.is_set():
            self._last_line = time.monotonic()
            print(f"  step {pace.step} of {self._steps}: {text}", flush=True)

    def _track(self, epoch: Epoch) -> None:
        """A tracker that fails, as a server that is down, must not end the training."""
        try:
            self._on_epoch(epoch)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            self._bar.write(f"epoch {epoch.record['epoch']} was not tracked: {reason}", file=sys.stderr)


def format_epoch(record: dict[str, Any], measures: Measures) -> str:
    """The line of an epoch."""
    mark = "  best" if record["best"] else ""
    skipped = f"  {record['skipped']} skipped" if record.get("skipped") else ""
    return (
        f"epoch {record['epoch']}/{record['epochs']}  loss {record['loss']:.4f}  "
        f"{measures.title} {record[measures.headline]:.4f}  "
        f"{record['images_per_s']:.1f} images/s  waited {record['data_wait']:.0%} for data{mark}{skipped}"
    )


def format_training(config: TrainerConfig, measures: Measures, records: list[dict[str, Any]]) -> str:
    """The best epoch by class, and where its bundle lies."""
    best = max(records, key=lambda record: record[measures.headline])
    scores = ", ".join(f"{title} {best[key]:.4f}" for key, title in measures.titles.items())
    lines = [f"\nbest: epoch {best['epoch']}, {scores}"]
    by_class = best[measures.by_class]
    width = max(map(len, by_class))
    for name, value in by_class.items():
        lines.append(f"  {name:<{width}}  {'absent' if value is None else f'{value:.4f}'}")
    return "\n".join([*lines, f"bundle: {config.output}"])
