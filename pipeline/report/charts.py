"""Charts as PNG: the course of a training run, a confusion matrix."""

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

DPI = 110
MANY = 12  # classes; more have no names at their curves


def draw_curves(records: list[dict[str, Any]], titles: dict[str, str], by_class: str, class_title: str) -> bytes:
    """Loss, scores, scores by class, and speed over epochs.

    Args:
        records: a dict per epoch, as in `metrics.jsonl`; at least one.
        titles: key of a score -> what it is called; the first is the headline.
        by_class, class_title: the same for the scores of classes.
    """
    headline, title = next(iter(titles.items()))
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    loss, scores, classes, speed = figure.subplots(2, 2).ravel()
    epochs = [record["epoch"] for record in records]

    def plot(axes: Axes, name: str, label: str | None = None, **style: Any) -> None:
        axes.plot(epochs, [record[name] for record in records], marker=".", label=label or name, **style)

    plot(loss, "loss")
    loss.set_title("training loss")
    for key, called in titles.items():
        plot(scores, key, called)
    best = max(records, key=lambda record: record[headline])
    scores.axvline(best["epoch"], color="gray", linewidth=0.8)
    scores.set_title(f"validation: best {title} {best[headline]:.4f} in epoch {best['epoch']}")
    names = list(best[by_class])
    for name in names:
        values = [record[by_class].get(name) for record in records]
        classes.plot(epochs, [np.nan if v is None else v for v in values], label=name, linewidth=1)
    classes.set_title(f"{class_title} by class")
    plot(speed, "images_per_s", "images/s")
    waiting = speed.twinx()
    waiting.plot(epochs, [100 * record["data_wait"] for record in records], color="tab:red", linestyle="--")
    waiting.set_ylabel("% of the time waiting for data", color="tab:red")
    waiting.set_ylim(0, 100)
    speed.set_ylim(bottom=0)
    speed.set_title("images/s")
    for axes in (scores, classes):
        axes.set_ylim(0, 1)
    if len(names) <= MANY:
        classes.legend(fontsize="x-small", ncols=2)
    scores.legend(fontsize="small")
    for axes in (loss, scores, classes, speed):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    return _png(figure)


def draw_confusion(matrix: NDArray, names: list[str]) -> bytes:
    """A confusion matrix, each row (a class of the ground truth) as shares.

    Args:
        matrix: int64 [classes, classes]; row ground truth, column prediction.
        names: of the classes.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(4 + 0.35 * len(names), 16)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xlabel("prediction")
    axes.set_ylabel("ground truth")
    if len(names) <= 3 * MANY:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    if len(names) <= MANY:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize="x-small")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
