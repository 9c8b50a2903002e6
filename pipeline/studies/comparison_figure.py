"""The figure of a comparative study: the score of each trial, with mean and spread of each variant."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pipeline.studies.description import Description
from pipeline.studies.figures import png_and_svg


def draw_comparison(description: Description, trials: Sequence[dict[str, Any]]) -> tuple[bytes, bytes]:
    """Draw the score of each trial, and mean and standard deviation of each variant, as PNG and as SVG."""
    figure = Figure(figsize=(2 + 1.2 * len(description.variants), 4.5), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(description.variants):
        scores = [row["score"] for row in trials if row["variant"] == name and row["score"] is not None]
        axes.scatter([place] * len(scores), scores, s=18, alpha=0.6, color="tab:blue")
        if scores:
            spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0
            axes.errorbar(
                place, float(np.mean(scores)), yerr=spread, fmt="_", markersize=24, capsize=4, color="tab:red"
            )
    axes.set_xticks(range(len(description.variants)), list(description.variants), rotation=20, ha="right")
    axes.set_ylabel(description.score.title)
    axes.grid(axis="y", alpha=0.3)
    return png_and_svg(figure)
