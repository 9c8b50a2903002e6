"""The HTML page of a training run: curves, scores of classes, and the validation images with best and worst scores."""

import math
from html import escape
from typing import Any

import numpy as np

from pipeline import bundle, storage
from pipeline.predict.device import pick_device
from pipeline.report.page import format_cell, page, picture, table
from pipeline.training.config import TrainerConfig
from pipeline.training.records import read_validation
from pipeline.training.task import Task

REPORT = "report.html"
PICTURES = 4  # images on the sheet of the best, and on that of the worst


def write_report(config: TrainerConfig, task: Task, records: list[dict[str, Any]]) -> str:
    """Write `report.html` beside the bundle, and return its URL.

    Args:
        config: Configuration of the run.
        task: What was learnt.
        records: One record per epoch, as in `metrics.jsonl`; at least one.
    """
    from pipeline.report.charts import draw_curves  # matplotlib

    measures = task.measures
    best = max(records, key=lambda record: record[measures.headline])
    facts = {
        "model": config.model,
        "options": ", ".join(f"{name}={value}" for name, value in config.model_options.items()) or "–",
        "epochs": f"{len(records)} of {config.epochs}",
        "best epoch": best["epoch"],
        **{title: best[key] for key, title in measures.titles.items()},
        "training": f"{sum(record['train_s'] for record in records) / 60:.1f} minutes",
        "validation": f"{sum(record['val_s'] for record in records) / 60:.1f} minutes",
        "images per second": best["images_per_s"],
        "time waiting for data": f"{np.mean([record['data_wait'] for record in records]):.1%}",
        "peak memory": f"{max(record['peak_memory_mib'] for record in records):,.0f} MiB",
        "skipped images": best["skipped"],
    }
    parts = [
        f"<h1>{escape(config.model)}</h1>",
        table(["", ""], [[name, format_cell(value)] for name, value in facts.items()]),
        "<h2>Curves</h2>",
        picture(draw_curves(records, measures.titles, measures.by_class, measures.class_title), "curves over epochs"),
        "<h2>Classes</h2>",
        table(
            ["class", measures.class_title],
            [[name, format_cell(value)] for name, value in best[measures.by_class].items()],
        ),
    ]
    for title, content in task.tables().items():
        cells = [[format_cell(value) for value in row.values()] for row in content]
        parts += [f"<h2>{escape(title)}</h2>", table(list(content[0]), cells)]
    network, _ = bundle.load_bundle(config.output)
    evaluator = task.evaluator(network, pick_device())
    rows = [row for row in read_validation(config.output) if not math.isnan(row[measures.of_image])]
    ranked = sorted(rows, key=lambda row: row[measures.of_image])
    for title, chosen in (("Worst", ranked[:PICTURES]), ("Best", ranked[::-1][:PICTURES])):
        sheet = task.pictures(evaluator, chosen)
        parts += [f"<h2>{title} validation images</h2>", picture(sheet, f"{title} images")] if sheet else []
    url = storage.join(config.output, REPORT)
    storage.write_bytes(url, page(f"{config.model}: {measures.title} {best[measures.headline]:.4f}", parts))
    return url
