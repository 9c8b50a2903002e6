"""The HTML page of a training run: curves, scores of classes, and the validation images with best and worst scores."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline import bundle, storage
from pipeline.predict.device import pick_device
from pipeline.report.blocks import (
    Bar,
    Bars,
    Chart,
    Charts,
    Facts,
    Headline,
    Line,
    Page,
    Picture,
    Section,
    Table,
    flattened,
)
from pipeline.secrets import redact_all
from pipeline.training.config import TrainerConfig
from pipeline.training.records import read_validation
from pipeline.training.task import Measures, Task

REPORT = "report.html"
PICTURES = 4  # images on the sheet of the best, and on that of the worst


def write_report(config: TrainerConfig, task: Task, records: list[dict[str, Any]]) -> str:
    """Write `report.html` beside the bundle, and return its URL.

    Args:
        config: Configuration of the run.
        task: What was learnt.
        records: One record per epoch, as in `metrics.jsonl`; at least one.
    """
    from pipeline.report.render import render  # Jinja2

    measures = task.measures
    best = max(records, key=lambda record: record[measures.headline])
    titles = measures.titles_of([best])
    facts = {
        "model": config.model,
        "options": ", ".join(f"{name}={value}" for name, value in config.model_options.items()) or "–",
        "epochs": f"{len(records)} of {config.epochs}",
        "best epoch": best["epoch"],
        **{title: best[key] for key, title in titles.items()},
        "training": f"{sum(record['train_s'] for record in records) / 60:.1f} minutes",
        "validation": f"{sum(record['val_s'] for record in records) / 60:.1f} minutes",
        "images per second": best["images_per_s"],
        "time waiting for data": f"{np.mean([record['data_wait'] for record in records]):.1%}",
        "peak memory": f"{max(record['peak_memory_mib'] for record in records):,.0f} MiB",
        "skipped images": best["skipped"],
    }
    headlines = [
        Headline(title, format_score(best[key]), f"epoch {best['epoch']}" if key == measures.headline else "")
        for key, title in list(titles.items())[:3]
    ]
    headlines.append(Headline("epochs", f"{len(records)}", f"of {config.epochs}"))
    headlines.append(Headline("images per second", f"{best['images_per_s']:,.1f}"))
    bars = [Bar(name, [value]) for name, value in best[measures.by_class].items()]
    sections = [
        Section("Curves", [Charts(curve_charts(records, measures))]),
        Section(
            "Classes", [Bars("class", [measures.class_title], bars)], f"Scores of epoch {best['epoch']}, the best one."
        ),
    ]
    for title, content in task.tables().items():
        rows = [list(row.values()) for row in content]
        sections.append(Section(title, [Table(list(content[0]), rows)]))
    sections += _pictures(config, task)
    options = config.model_dump(mode="json", exclude_defaults=True)
    sections.append(Section("Configuration", [Facts(facts), Facts(flattened(redact_all(options)))]))
    url = storage.join(config.output, REPORT)
    page = Page(config.model, "Training run", storage.redact(config.output), headlines, sections)
    storage.write_bytes(url, render(page))
    return url


def curve_charts(records: Sequence[dict[str, Any]], measures: Measures) -> list[Chart]:
    """Return the loss, the scores, the scores of the classes and the speed over the epochs."""

    def line(name: str, values: Sequence[float | None]) -> Line:
        epochs = [float(record["epoch"]) for record in records]
        return Line(name, [(x, math.nan if y is None else float(y)) for x, y in zip(epochs, values, strict=True)])

    def column(key: str) -> list[float | None]:
        return [record[key] for record in records]

    names = list(records[-1][measures.by_class])
    titles = measures.titles_of(records)
    by_class = [line(name, [record[measures.by_class].get(name) for record in records]) for name in names]
    charts: list[tuple[str, list[Line], float | None]] = [
        ("Training loss", [line("loss", column("loss"))], None),
        ("Validation", [line(title, column(key)) for key, title in titles.items()], 1.0),
        (f"{measures.class_title} of the classes", by_class, 1.0),
        ("Images per second", [line("images per second", column("images_per_s"))], None),
        ("Share of the time waiting for data", [line("waiting", column("data_wait"))], 1.0),
    ]
    return [Chart(title, lines, "epoch", y_max=y_max, whole=True) for title, lines, y_max in charts]


def _pictures(config: TrainerConfig, task: Task) -> list[Section]:
    """Return the validation images with the worst and the best scores."""
    network, _ = bundle.load_bundle(config.output)
    evaluator = task.evaluator(network, pick_device())
    key = task.measures.of_image
    rows = sorted((row for row in read_validation(config.output) if not math.isnan(row[key])), key=lambda row: row[key])
    sections = []
    for title, chosen in (("Worst", rows[:PICTURES]), ("Best", rows[::-1][:PICTURES])):
        sheet = task.pictures(evaluator, chosen)
        if sheet:
            sections.append(Section(f"{title} validation images", [Picture(sheet, f"{title} images")]))
    return sections


def format_score(value: float | None) -> str:
    """Format a score for people; None means undefined."""
    return "–" if value is None else f"{value:.4f}"
