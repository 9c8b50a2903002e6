"""Whole bulk runs of real models, computed in the test's own process and its helper processes, without Ray."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from pipeline import bundle
from pipeline.bulk.config import Sharding
from pipeline.bulk.kind import RunKind
from pipeline.bulk.plan import PlanReader
from pipeline.bulk.refine import RefiningWriter
from pipeline.bulk.run import run_bulk
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import segmentation_run
from pipeline.bulk.write import ShardWriter
from pipeline.card import Card
from pipeline.data.classes import load_classes
from pipeline.data.preprocessing import ClassifierInput
from pipeline.models import configure
from tests.support.networks import narrow


@contextmanager
def in_this_process(*, stop: Callable[[int], None] = lambda shard: None) -> Iterator[None]:
    """Let bulk runs in the block compute their shards in this process and its helper processes.

    Args:
        stop: Called before each shard; may raise to end the driver.
    """

    def stream(
        kind: RunKind, run: str, shards: list[int], schema: pa.Schema, *, images: int, driver: str, on_shard: Any
    ) -> None:
        from pipeline.bulk.predict import ShardPredictor

        plan, writer = PlanReader(run), ShardWriter(run=run, schema=schema)
        predictor = ShardPredictor(kind=kind, plan=plan, writer=writer, run=run, driver=driver, helpers=1)
        try:
            for shard in shards:
                stop(shard)
                block = predictor({"shard": [shard]})
                counts = RefiningWriter(writer, kind=kind, plan=plan)(block) if kind.refines else block
                on_shard(counts.to_pylist()[0])
        finally:
            predictor.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.bulk.stream.stream", stream)
        patch.setattr("pipeline.bulk.run._start_ray", lambda kind: None)
        patch.setattr("pipeline.bulk.run._placed", lambda kind: (kind, ""))
        yield


def save_segmenter(folder: Path, scenes: str) -> str:
    """Save a network for drawn scenes, whose weights are random, and return its bundle."""
    torch.manual_seed(0)
    classes = load_classes(f"{scenes}/classes.yaml")
    model = narrow("deeplabv3_resnet18", len(classes))
    card = Card(architecture="deeplabv3_resnet18", options={"width": 0.125}, classes=classes)
    bundle.save_bundle(str(folder / "segmenter"), model, card)
    return str(folder / "segmenter")


def save_classifier(folder: Path, scenes: str) -> str:
    """Save a classifier with activation maps for drawn scenes, whose weights are random, and return its bundle."""
    torch.manual_seed(0)
    classes = load_classes(f"{scenes}/classes.yaml")
    options = {"width": 0.125}
    model = configure("resnet18_cam", options).build(len(classes))
    card = Card(
        architecture="resnet18_cam",
        options=options,
        classes=classes,
        classifier=ClassifierInput(size=(64, 64), multi_label=True),
    )
    bundle.save_bundle(str(folder / "classifier"), model, card)
    return str(folder / "classifier")


def segment(model: str, images: str, output: str, **options: Any) -> str:
    """Segment a folder of images in shards of sixteen, and return the folder of the run."""
    options = {"sharding": Sharding(max_images=16)} | options
    run = run_bulk(segmentation_run(SegmentConfig(model=model, images=images, output=output, **options)))
    assert run is not None
    return run
