"""Finished runs without Ray and networks: plan, rows, files, end and page are those of a real run."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import storage
from pipeline.bulk.config import Sharding
from pipeline.bulk.describe import Described
from pipeline.bulk.fetch import Failure, Fetched
from pipeline.bulk.finish import finish
from pipeline.bulk.listing import list_input
from pipeline.bulk.plan import PlanReader, make_plan, run_identity, store_plan
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import SegmentationRun
from pipeline.bulk.table_input import read_encoded
from pipeline.bulk.write import ShardWriter
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.data.images import ImageError, decode_image
from pipeline.errors import one_line
from pipeline.predict.prediction import Prediction

CLASSES = Classes(names=("sky", "road", "car"), colours=((100, 160, 220), (120, 120, 120), (230, 190, 50)))
SIZE = (48, 64)
Results = Callable[[str, NDArray[np.uint8]], Any]


def finished_run(kind: Any, run_id: str, result_of: Results) -> str:
    """Compute a run in this process, and return its folder.

    Args:
        kind: The kind of run.
        run_id: Name of the run.
        result_of: Returns the network's result for the id and the pixels of an image.
    """
    config = kind.config
    run = storage.join(config.output, f"run_id={run_id}")
    identity = run_identity(config, kind.card, kind.classes)
    summary = store_plan(run, make_plan(config, list_input(config.images), kind.truth), identity)
    schema = kind.images_schema({"run_id": run_id, "ignore_index": kind.classes.ignore_index} | identity)
    plan, writer = PlanReader(run), ShardWriter(run=run, schema=schema)
    for shard in range(len(summary.shard_images)):
        rows = plan.shard(shard)
        writer.write(shard, rows, _described(kind, rows, result_of))
    finish(run, run_id=run_id, schema=schema, kind=kind, still_ours=lambda: None)
    return run


def _described(kind: Any, rows: list[dict[str, Any]], result_of: Results) -> Iterator[tuple[int, Described]]:
    for i, row in enumerate(rows):
        data = read_encoded(row["uri"], row["row"], row["bytes"])
        fetched = Fetched(row["image_id"], row["truth"], sha256=hashlib.sha256(data).hexdigest(), fetch_ms=1.0)
        try:
            decoded = decode_image(data)
        except ImageError as error:
            yield i, Described(fetched, Failure("decode", "ImageError", one_line(error)), None, 0.0)
            continue
        fetched.height, fetched.width = decoded.pixels.shape[:2]
        yield i, Described(fetched, kind.row(fetched, result_of(row["image_id"], decoded.pixels)), 2.0, 1.0)


def segmented(
    folder: Path,
    run_id: str,
    *,
    classes: Classes = CLASSES,
    images: str = "images",
    labels: bool = True,
    crf: bool = False,
    error: float = 0.2,
) -> str:
    """Segment `folder/images` with masks that are wrong in a share of the columns, and return the folder of the run."""
    config = SegmentConfig(
        model="-",
        images=str(folder / images),
        output=str(folder / "runs"),
        labels=str(folder / "labels") if labels else None,
        crf=crf,
        sharding=Sharding(max_images=4),
    )
    kind = SegmentationRun(config, Card(architecture="drawn", options={}, classes=classes), classes)

    def result_of(image_id: str, pixels: NDArray[np.uint8]) -> Prediction:
        truth = np.asarray(Image.open(_label_of(folder, image_id))).astype(np.uint8)
        truth = np.where(truth < len(classes), truth, 0).astype(np.uint8)
        rng = np.random.default_rng(int(hashlib.sha256(image_id.encode()).hexdigest()[:8], 16))
        wrong, still_wrong = rng.random(truth.shape[1]) < error, rng.random(truth.shape[1]) < error / 2
        refined = np.where(still_wrong, np.roll(truth, 1, axis=0), truth) if crf else None
        mask = np.where(wrong, (truth + 1) % len(classes), truth).astype(np.uint8)
        return Prediction(mask, 0.9, float(rng.random()), None, 8, refined, 3.0 if crf else None)

    return finished_run(kind, run_id, result_of)


def _label_of(folder: Path, image_id: str) -> Path:
    return folder / "labels" / f"{Path(image_id).stem}.png"


def draw_images(
    folder: Path, names: list[str], *, seed: int = 0, car: float = 0.2, images: str = "images", classes: int = 3
) -> None:
    """Draw images with label maps: sky above a road, and a car that covers a share of the width; 255 is ignored."""
    for part in (images, "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    width = SIZE[1]
    colours = np.array([(140, 190, 240), (90, 90, 90), (220, 180, 60)])
    for name in names:
        label = np.zeros(SIZE, np.uint8)
        label[rng.integers(15, 30) :] = 1
        left, wide = int(rng.integers(0, width // 2)), max(1, int(width * car * rng.uniform(0.5, 1.5)))
        label[32:42, left : left + wide] = 2
        if classes > len(colours):
            label[:8, :8] = rng.integers(0, classes, (8, 8))
        pixels = colours[label % 3] + rng.integers(-12, 12, (*SIZE, 3))
        label[:2] = 255
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / images / f"{name}.png")
        Image.fromarray(label).save(folder / "labels" / f"{name}.png")
