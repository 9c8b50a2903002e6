"""A PNG of a confusion matrix, for the trackers of training runs."""

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

DPI = 110
MAX_NAMED = 12  # largest number of classes for which a chart has a legend and numbers


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


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
