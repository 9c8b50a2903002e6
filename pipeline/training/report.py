"""The page of a training run: curves, classes, and the validation images that it does best and worst."""

from html import escape
from typing import Any

import numpy as np

from pipeline import bundle, storage
from pipeline.classes import Classes
from pipeline.datasets import Sample, SampleError, read_sample
from pipeline.inference import Segmenter, pick_device
from pipeline.report.charts import draw_curves
from pipeline.report.page import page, picture, shown, table
from pipeline.report.sheet import Picture, draw_sheet
from pipeline.training.config import TrainConfig
from pipeline.training.records import read_validation

REPORT = "report.html"
EACH = 4  # best and worst images to show


def write_report(
    config: TrainConfig, classes: Classes, val_samples: list[Sample], records: list[dict[str, Any]]
) -> str:
    """Write `report.html` beside the bundle; its URL."""
    best = max(records, key=lambda record: record["miou"])
    facts = {
        "model": config.model,
        "options": ", ".join(f"{name}={value}" for name, value in config.model_options.items()) or "–",
        "epochs": f"{len(records)} of {config.epochs}",
        "best epoch": best["epoch"],
        "mIoU": best["miou"],
        "pixel accuracy": best["pixel_accuracy"],
        "training": f"{sum(record['train_s'] for record in records) / 60:.1f} minutes",
        "validation": f"{sum(record['val_s'] for record in records) / 60:.1f} minutes",
        "images per second": best["images_per_s"],
        "time waiting for data": f"{np.mean([record['data_wait'] for record in records]):.1%}",
        "peak memory": f"{max(record['peak_memory_mib'] for record in records):,.0f} MiB",
        "images left out": best["skipped"],
    }
    weights, _ = bundle.load_bundle(config.output)
    segmenter = Segmenter(weights, preprocessing=config.preprocessing, device=pick_device(), dtype=config.dtype)
    ranked = sorted(
        (image for image in read_validation(config.output) if image.miou == image.miou), key=lambda i: i.miou
    )
    by_key = {sample.key: sample for sample in val_samples}

    def sheet(images: list) -> str:
        pictures = []
        for image in images:
            try:
                pixels, labels = read_sample(by_key[image.key], classes)
            except (SampleError, KeyError):  # it went since
                continue
            title = f"{image.key}   mIoU {image.miou:.3f}"
            pictures.append(Picture(title, pixels, segmenter([pixels])[0].labels, labels))
        return picture(draw_sheet(pictures, classes), "image, ground truth, prediction") if pictures else ""

    content = page(
        f"{config.model}: mIoU {best['miou']:.4f}",
        [
            f"<h1>{escape(config.model)}</h1>",
            table(["", ""], [[name, shown(value)] for name, value in facts.items()]),
            "<h2>Course</h2>",
            picture(draw_curves(records), "loss, scores, speed over epochs"),
            "<h2>Classes</h2>",
            table(["class", "IoU"], [[name, shown(iou)] for name, iou in best["iou"].items()]),
            "<h2>Worst validation images</h2>",
            sheet(ranked[:EACH]),
            "<h2>Best validation images</h2>",
            sheet(ranked[::-1][:EACH]),
        ],
    )
    url = storage.join(config.output, REPORT)
    storage.write_bytes(url, content)
    return url
