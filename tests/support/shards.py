"""A bulk run of one shard, computed in the test's own process and its helper processes, without Ray."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from PIL import Image

from pipeline import bundle
from pipeline.bulk.config import Sharding
from pipeline.bulk.kind import RunKind
from pipeline.bulk.listing import list_input
from pipeline.bulk.plan import PlanReader, make_plan, store_plan
from pipeline.bulk.refine import RefiningWriter
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import SegmentationRun
from pipeline.bulk.write import ShardWriter
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.models import configure

ONE_SHARD = Sharding(max_images=16)


def planned_run(
    folder: Path, *, colours: Sequence[tuple[int, int, int]], size: tuple[int, int] = (16, 16), **options
) -> tuple[SegmentationRun, str]:
    """A run over images of one colour each, named by their number, whose plan is stored, and its folder."""
    (folder / "images").mkdir()
    for i, colour in enumerate(colours):
        Image.new("RGB", size, colour).save(folder / "images" / f"{i}.png")
    card = Card(architecture="deeplabv3_resnet18", options={"width": 0.125}, classes=Classes(names=("a", "b", "c")))
    bundle.save_bundle(str(folder / "model"), configure(card.architecture, card.options).build(3), card)
    places = {"model": str(folder / "model"), "images": str(folder / "images"), "output": str(folder / "runs")}
    config = SegmentConfig(**places, sharding=ONE_SHARD, **options)
    run = str(folder / "runs" / "run_id=x")
    kind = SegmentationRun(config, card, card.classes)
    store_plan(run, make_plan(config, list_input(config.images), kind.truth), {})
    return kind, run


def compute_shard(kind: RunKind, run: str) -> pa.Table:
    """Compute and write the first shard, as a predictor and, with a CRF, a task do; return what the driver gets."""
    from pipeline.bulk.predict import ShardPredictor  # imports no PyTorch itself, but starts processes

    plan = PlanReader(run)
    writer = ShardWriter(run=run, schema=kind.images_schema({}))
    predictor = ShardPredictor(kind=kind, plan=plan, writer=writer, run=run, driver="me", helpers=1, use_gpu=False)
    block = predictor({"shard": [0]})
    predictor.close()
    return RefiningWriter(writer, kind=kind, plan=plan)(block) if kind.refines else block
