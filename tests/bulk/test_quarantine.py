"""An image that kills its process is identified and left out, and nothing else is lost."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline import bundle
from pipeline.bulk.listing import list_input
from pipeline.bulk.plan import PlanReader, make_plan, store_plan
from pipeline.bulk.quarantine import ATTEMPTS_BEFORE_CARE, DEATHS_TO_CONVICT, Quarantine
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import SegmentationRun
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.models import configure

DEADLY = (255, 0, 0)


def attempt(kind: SegmentationRun, run: str, result: str) -> None:
    """Compute the shard as a process of Ray does; a red image ends the process, as a crash in a C library would."""
    from pipeline.bulk.predict import ShardPredictor
    from pipeline.predict.segmenter import Segmenter

    segment = Segmenter.__call__

    def crash(self: Segmenter, images: list) -> list:
        if any((image[0, 0] == DEADLY).all() for image in images):
            os._exit(139)
        return segment(self, images)

    Segmenter.__call__ = crash  # type: ignore[method-assign, assignment]
    table = ShardPredictor(kind=kind, plan=PlanReader(run), quarantine=Quarantine(run))({"shard": [0]})
    with pa.OSFile(result, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def test_a_deadly_image_becomes_an_error_row(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(5):
        colour = DEADLY if i == 2 else (0, 40 * i, 90)
        Image.new("RGB", (16, 16), colour).save(tmp_path / "images" / f"{i}.png")
    card = Card(architecture="deeplabv3_resnet18", options={"width": 0.125}, classes=Classes(names=("a", "b", "c")))
    bundle.save_bundle(str(tmp_path / "model"), configure(card.architecture, card.options).build(3), card)
    config = SegmentConfig(
        model=str(tmp_path / "model"), images=str(tmp_path / "images"), output=str(tmp_path / "runs")
    )
    run = str(tmp_path / "runs" / "run_id=x")
    kind = SegmentationRun(config, card, card.classes)
    store_plan(run, make_plan(config, list_input(config.images), kind.truth), {})

    result = tmp_path / "result.arrow"
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["pipeline.bulk.segmentation.predictor"])  # imported once, not by each process
    deaths = 0
    while not result.exists():
        process = processes.Process(target=attempt, args=(kind, run, str(result)))
        process.start()
        process.join()
        deaths += process.exitcode == 139
        assert deaths <= ATTEMPTS_BEFORE_CARE + DEATHS_TO_CONVICT
    rows = pa.ipc.open_file(result).read_all().to_pylist()
    assert [row["image_id"] for row in rows] == [f"{i}.png" for i in range(5)]
    assert [row["error_class"] for row in rows] == [None, None, "ProcessDied", None, None]
    assert all(len(np.frombuffer(row["labels"], np.uint8)) == 256 for row in rows if row["error_class"] is None)
    assert deaths == ATTEMPTS_BEFORE_CARE + DEATHS_TO_CONVICT


def test_attempts_alone_convict_no_image(tmp_path):
    """After attempts without a result the shard is computed image by image, because drivers and nodes die too."""
    quarantine = Quarantine(str(tmp_path))
    assert [quarantine.begin(0) for _ in range(ATTEMPTS_BEFORE_CARE)] == [None] * ATTEMPTS_BEFORE_CARE
    assert quarantine.begin(0) == {}
    with quarantine.suspicion(0, 7):
        pass
    assert quarantine.begin(0) == {}
    assert quarantine.begin(1) is None
    assert not quarantine.convicted(DEATHS_TO_CONVICT - 1)
    assert Path(tmp_path, "_run/attempts/00000").is_dir()
