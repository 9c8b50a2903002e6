"""PNG charts of the curves of a training run, of a confusion matrix, and of scores over other scores."""

import io
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

DPI = 110
MAX_NAMED = 12  # largest number of classes for which a chart has a legend and numbers


def draw_curves(records: list[dict[str, Any]], titles: dict[str, str], by_class: str, class_title: str) -> bytes:
    """Draw the loss, the scores, the scores by class, and the speed over epochs.

    Args:
        records: The record of each epoch, as in `metrics.jsonl`; at least one.
        titles: Name of each score by its key in the records; the first one is the headline score.
        by_class: Key of the scores by class.
        class_title: Name of the scores by class.
    """
    headline, title = next(iter(titles.items()))
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    loss, scores, classes, speed = figure.subplots(2, 2).ravel()
    epochs = [record["epoch"] for record in records]

    def plot(axes: Axes, key: str, label: str) -> None:
        axes.plot(epochs, [record[key] for record in records], marker=".", label=label)

    plot(loss, "loss", "loss")
    loss.set_title("training loss")
    for key, name in titles.items():
        plot(scores, key, name)
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
    if len(names) <= MAX_NAMED:
        classes.legend(fontsize="x-small", ncols=2)
    scores.legend(fontsize="small")
    for axes in (loss, scores, classes, speed):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    return _png(figure)


def draw_confusion(matrix: NDArray, names: list[str]) -> bytes:
    """Draw a confusion matrix, with the counts of each row as shares of its sum.

    Args:
        matrix: Counts, int64 [classes, classes]; rows are ground truth, columns predictions.
        names: Names of the classes.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(4 + 0.35 * len(names), 16)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xlabel("prediction")
    axes.set_ylabel("ground truth")
    if len(names) <= 3 * MAX_NAMED:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    if len(names) <= MAX_NAMED:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize="x-small")
    return _png(figure)


class Line(NamedTuple):
    """A line of a chart: its name in the legend, and its points (x, y)."""

    name: str
    points: list[tuple[float, float]]


def draw_panels(panels: dict[str, list[tuple[float, float]]], *, x_label: str, y_label: str) -> bytes:
    """Draw a small chart with one line, both axes from 0 to 1, for each of some titles.

    Args:
        panels: The points (x, y) of each line by the title of its chart; one at least.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
    """
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(2.6 * columns, 4), 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (title, points) in zip(grid.ravel(), panels.items(), strict=False):
        axes.plot(*np.array(points, float).reshape(-1, 2).T, marker="." if len(points) < 2 else None)
        axes.set_title(title, fontsize="small")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.grid(alpha=0.3)
    for axes in grid.ravel()[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel(x_label, fontsize="small")
    figure.supylabel(y_label, fontsize="small")
    return _png(figure)


def draw_lines(lines: list[Line], *, x_label: str, y_label: str) -> bytes:
    """Draw lines over a logarithmic horizontal axis, with values from 0 to 1."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for line in lines:
        axes.plot(*np.array(line.points, float).T, marker=".", label=line.name)
    axes.set_xscale("log")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
