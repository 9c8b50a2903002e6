"""Drawn pictures with true boxes, and a detector that finds some of them without being trained for long."""

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline import bundle
from pipeline.bulk.detection.config import DetectConfig
from pipeline.bulk.detection.run import DetectionRun
from pipeline.bulk.listing import list_input
from pipeline.bulk.plan import make_plan, store_plan
from pipeline.card import Card, read_card
from pipeline.data.box_annotations import read_boxes
from pipeline.data.classes import Classes
from pipeline.data.preprocessing import DetectorInput, Preprocessing, ProposalOptions
from pipeline.data.proposals import propose
from pipeline.demo.shapes import NAMES, write_shapes
from pipeline.metrics.boxes import pairwise_iou
from pipeline.models import configure
from pipeline.models.detection.fast_rcnn import FastRCNN, roi_pool
from pipeline.models.detection.inputs import resized, scaled_boxes, with_short_side
from pipeline.predict.device import normalise
from tests.support.deadly import DEADLY
from tests.support.shards import ONE_SHARD

CLASSES = Classes(names=NAMES)
PROPOSALS = ProposalOptions(limit=100)
FAST_RCNN: dict[str, Any] = {"width": 0.1, "short_side": 128, "longest_side": 400}


def write_pictures(folder: Path, *, count: int, seed: int = 0) -> None:
    """Write drawn pictures to `images`, their boxes to `boxes.csv`, and an image without boxes among them."""
    write_shapes(folder, count=count, seed=seed)
    lines = (folder / "boxes.csv").read_text().splitlines()
    named = {line.split(",")[0] for line in lines[1:]}
    empty = [file.name for file in sorted((folder / "images").iterdir()) if file.name not in named]
    (folder / "boxes.csv").write_text("\n".join([*lines, *(f"{name},,,,," for name in empty)]) + "\n")


def save_detector(url: str, *, name: str = "fast_rcnn_alexnet", **options: Any) -> Card:
    """Save an untrained detector with `CLASSES` as a bundle."""
    torch.manual_seed(0)
    config = configure(name, options)
    network = config.build(len(CLASSES))
    takes_proposals = getattr(config, "takes_proposals", False)
    detector = DetectorInput(proposals=PROPOSALS if takes_proposals else None)
    return bundle.save_bundle(
        url, network, Card(architecture=name, options=options, classes=CLASSES, detector=detector)
    )


def save_fitted_detector(url: str, pictures: Path) -> Card:
    """Save a Fast R-CNN whose score layer is fitted by ridge regression to the regions of some pictures."""
    torch.manual_seed(0)
    network = configure("fast_rcnn_alexnet", FAST_RCNN).build(len(CLASSES)).eval()
    assert isinstance(network, FastRCNN)
    boxes_of = read_boxes(str(pictures / "boxes.csv"))
    features, labels = [], []
    for file in sorted((pictures / "images").iterdir()):
        pixels = np.asarray(Image.open(file).convert("RGB"))
        known = boxes_of.find(file.stem) or []
        truth = np.array([box.corners for box in known]).reshape(-1, 4)
        regions = np.concatenate([propose(pixels, PROPOSALS), truth.astype(np.float32)])
        ious = np.concatenate([np.full((len(regions), 1), 0.5 - 1e-6), pairwise_iou(regions, truth)], axis=1)
        classes = np.array([len(CLASSES), *(NAMES.index(box.label) for box in known)])
        image = normalise(torch.from_numpy(pixels.copy())[None], Preprocessing())[0]
        size = with_short_side(pixels.shape[:2], FAST_RCNN["short_side"], FAST_RCNN["longest_side"])
        with torch.inference_mode():
            maps = network.maps(resized(image, size)[None])
            scaled = scaled_boxes(torch.from_numpy(regions), pixels.shape[:2], size)
            features.append(network.head(roi_pool(maps, [scaled], network.side)).double().numpy())
        labels.append(classes[ious.argmax(axis=1)])
    x, y = np.concatenate(features), np.eye(len(CLASSES) + 1)[np.concatenate(labels)]
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    x = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    weights = np.linalg.solve(x.T @ x + 1.0 * np.eye(x.shape[1]), x.T @ y) * 10  # sharper probabilities
    with torch.no_grad():
        network.score.weight.copy_(torch.from_numpy((weights[:-1] / scale[:, None]).T))
        network.score.bias.copy_(torch.from_numpy(weights[-1] - (mean / scale) @ weights[:-1]))
        network.box.weight.zero_()
    card = Card(
        architecture="fast_rcnn_alexnet",
        options=FAST_RCNN,
        classes=CLASSES,
        detector=DetectorInput(proposals=PROPOSALS),
    )
    return bundle.save_bundle(url, network, card)


def coco_json(pictures: Path) -> str:
    """Return the true boxes of pictures as COCO's JSON."""
    boxes_of = read_boxes(str(pictures / "boxes.csv"))
    files = sorted((pictures / "images").iterdir())
    annotations = [
        {
            "id": 100 * i + j + 1,
            "image_id": i,
            "category_id": NAMES.index(box.label),
            "bbox": [box.left, box.top, box.right - box.left, box.bottom - box.top],
            "area": (box.right - box.left) * (box.bottom - box.top),
            "iscrowd": 0,
        }
        for i, file in enumerate(files)
        for j, box in enumerate(boxes_of.find(file.stem) or [])
    ]
    images = [{"id": i, "file_name": file.name} for i, file in enumerate(files)]
    categories = [{"id": k, "name": name} for k, name in enumerate(NAMES)]
    return json.dumps({"info": {}, "images": images, "categories": categories, "annotations": annotations})


def planned_detection(folder: Path, pictures: Path, model: str, **options: Any) -> tuple[DetectionRun, str]:
    """A detection run over some pictures whose plan is stored, and its folder; for `shards.compute_shard`."""
    places = {"model": model, "images": str(pictures / "images"), "output": str(folder / "runs")}
    config = DetectConfig(**places, sharding=ONE_SHARD, **options)
    run = str(folder / "runs" / "run_id=x")
    kind = DetectionRun(config, read_card(model))
    store_plan(run, make_plan(config, list_input(config.images), kind.truth), {})
    return kind, run


class DeadlyDetection(DetectionRun):
    """A run in which the image `bad.png`, whose first pixel is red, ends the processes that compute it.

    Args:
        kind: The run without deaths.
        step: "prepare" or "predict".
    """

    def __init__(self, kind: DetectionRun, *, step: str):
        super().__init__(kind.config, kind.card)
        self.step = step

    def prepare(self, pixels):
        if self.step == "prepare" and (pixels[0, 0] == DEADLY).all():
            ctypes.string_at(0)
        return super().prepare(pixels)

    def load_predictor(self, images):
        from pipeline.bulk.detection.predictor import DetectionPredictor

        kind = self

        class DeadlyPredictor(DetectionPredictor):
            def __call__(self, images, truths):
                if kind.step == "predict" and any((image.pixels[0, 0] == DEADLY).all() for image in images):
                    ctypes.string_at(0)
                return super().__call__(images, truths)

        return DeadlyPredictor(self.config)
