"""Whole bulk runs of real models, computed in the test's own process and its helper processes, without Ray."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch.nn import functional

from pipeline import bundle
from pipeline.bulk.config import Sharding
from pipeline.bulk.detection.config import DetectConfig
from pipeline.bulk.detection.run import detection_run
from pipeline.bulk.kind import RunKind
from pipeline.bulk.localization.config import LocalizeConfig
from pipeline.bulk.localization.run import localization_run
from pipeline.bulk.plan import PlanReader
from pipeline.bulk.refine import RefiningWriter
from pipeline.bulk.run import run_bulk
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import segmentation_run
from pipeline.bulk.write import ShardWriter
from pipeline.card import Card
from pipeline.data.classes import Classes, load_classes
from pipeline.data.datasets import pair, read_sample
from pipeline.data.preprocessing import ClassifierInput
from pipeline.models import configure
from pipeline.predict.device import normalise


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
        predictor = ShardPredictor(
            kind=kind, plan=plan, writer=writer, run=run, driver=driver, helpers=1, use_gpu=False
        )
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
    """Save a network for drawn scenes, whose score layer alone is fitted (by ridge regression), and return its bundle.

    Args:
        folder: Folder of the bundle.
        scenes: Folder with classes.yaml and train/, from which it learns.
    """
    torch.manual_seed(0)
    classes = load_classes(f"{scenes}/classes.yaml")
    card = Card(architecture="deeplabv3_resnet18", options={"width": 0.125, "output_stride": 8}, classes=classes)
    model: Any = configure(card.architecture, card.options).build(len(classes)).eval()
    score = model.classifier[-1]
    inputs: list[torch.Tensor] = []
    hook = score.register_forward_hook(lambda module, args, output: inputs.append(args[0][0].flatten(1).T.double()))
    features, wanted = [], []
    for sample in pair(f"{scenes}/train/images", f"{scenes}/train/labels").samples:
        pixels, labels = read_sample(sample, classes)
        with torch.inference_mode():
            size = model(normalise(torch.from_numpy(pixels)[None], card.preprocessing)).logits.shape[2:]
        small = functional.interpolate(torch.from_numpy(labels)[None, None].double(), size).long().flatten()
        is_known = small < len(classes)
        features.append(inputs.pop()[is_known])
        wanted.append(functional.one_hot(small[is_known], len(classes)).double())
    hook.remove()
    x, y = torch.cat(features), torch.cat(wanted)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    balance = 1 / y.sum(dim=0)[y.argmax(dim=1), None].sqrt()
    x, y = x * balance, y * balance
    weights = torch.linalg.solve(x.T @ x + 1e-3 * torch.eye(x.shape[1]), x.T @ y) * 10  # sharper probabilities
    with torch.no_grad():
        score.weight.copy_(weights[:-1].T[:, :, None, None])
        score.bias.copy_(weights[-1])
    bundle.save_bundle(str(folder / "segmenter"), model, card)
    return str(folder / "segmenter")


def save_classifier(folder: Path, classes: Classes) -> str:
    """Save a classifier with activation maps, whose weights are random, and return its bundle."""
    torch.manual_seed(0)
    card = Card(
        architecture="resnet18_cam",
        options={"width": 0.125},
        classes=classes,
        classifier=ClassifierInput(size=(64, 64), multi_label=True),
    )
    model = configure(card.architecture, card.options).build(len(classes))
    bundle.save_bundle(str(folder / "classifier"), model, card)
    return str(folder / "classifier")


def segment(**options: Any) -> str:
    """Segment a folder of images in shards of sixteen, and return the folder of the run."""
    return _compute(segmentation_run(SegmentConfig(sharding=Sharding(max_images=16), **options)))


def localize(**options: Any) -> str:
    """Localize in a folder of images, and return the folder of the run."""
    return _compute(localization_run(LocalizeConfig(**options)))


def detect(**options: Any) -> str:
    """Detect in a folder of images, and return the folder of the run."""
    return _compute(detection_run(DetectConfig(**options)))


def _compute(kind: RunKind) -> str:
    run = run_bulk(kind)
    assert run is not None
    return run
