"""An image that kills its process is identified and left out, and nothing else is lost."""

import ctypes
import multiprocessing
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import bundle
from pipeline.bulk.plan import PlanReader, list_wanted, make_plan, store_plan
from pipeline.bulk.quarantine import ATTEMPTS_BEFORE_CARE, DEATHS_TO_CONVICT, Quarantine
from pipeline.bulk.refine import RefiningWriter
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import SegmentationRun
from pipeline.bulk.write import ShardWriter
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.data.images import decode_mask
from pipeline.models import configure

DEADLY = (255, 0, 0)


def attempt(kind: SegmentationRun, run: str) -> None:
    """Compute the shard as a process of Ray does; a red image ends the process, as a crash in a C library would."""
    from pipeline.predict.segmenter import Segmenter

    segment = Segmenter.__call__

    def crash(self: Segmenter, images: list) -> list:
        if any((image[0, 0] == DEADLY).all() for image in images):
            os._exit(139)
        return segment(self, images)

    Segmenter.__call__ = crash  # type: ignore[method-assign, assignment]
    predict(kind, run)


def predict(kind: SegmentationRun, run: str) -> None:
    """Compute and write the first shard."""
    from pipeline.bulk.predict import ShardPredictor

    plan = PlanReader(run)
    writer = ShardWriter(run=run, schema=kind.images_schema({}))
    predictor = ShardPredictor(kind=kind, plan=plan, quarantine=Quarantine(run), writer=writer, run=run, helpers=1)
    block = predictor({"shard": [0]})
    if kind.refines:
        RefiningWriter(writer, kind=kind, plan=plan)(block)


def planned(folder: Path, **options) -> tuple[SegmentationRun, str]:
    """A run over five images whose plan is stored, and its folder; the image 2 is deadly."""
    (folder / "images").mkdir()
    for i in range(5):
        colour = DEADLY if i == 2 else (0, 40 * i, 90)
        Image.new("RGB", (16, 16), colour).save(folder / "images" / f"{i}.png")
    card = Card(architecture="deeplabv3_resnet18", options={"width": 0.125}, classes=Classes(names=("a", "b", "c")))
    bundle.save_bundle(str(folder / "model"), configure(card.architecture, card.options).build(3), card)
    config = SegmentConfig(
        model=str(folder / "model"), images=str(folder / "images"), output=str(folder / "runs"), **options
    )
    run = str(folder / "runs" / "run_id=x")
    kind = SegmentationRun(config, card, card.classes)
    store_plan(run, make_plan(config, list_wanted(config), kind.truth), {})
    return kind, run


def check_rows(run: str, *, stage: str) -> None:
    """Each image has its row, and only the deadly one is an error."""
    rows = pq.read_table(f"{run}/images/part-00000.parquet").to_pylist()
    assert [row["image_id"] for row in rows] == [f"{i}.png" for i in range(5)]
    assert [row["error_class"] for row in rows] == [None, None, "ProcessDied", None, None]
    assert rows[2]["error_stage"] == stage
    assert all(decode_mask(row["mask"]["bytes"]).shape == (16, 16) for row in rows if row["status"] == "ok")


def test_an_image_that_ends_the_predictor_becomes_an_error_row(tmp_path):
    kind, run = planned(tmp_path)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["pipeline.bulk.segmentation.predictor"])  # imported once, not by each process
    deaths = 0
    while not Path(run, "images").exists():
        process = processes.Process(target=attempt, args=(kind, run))
        process.start()
        process.join()
        deaths += process.exitcode == 139
        assert deaths <= ATTEMPTS_BEFORE_CARE + DEATHS_TO_CONVICT
    check_rows(run, stage="predict")
    assert deaths == ATTEMPTS_BEFORE_CARE + DEATHS_TO_CONVICT


@pytest.mark.parametrize(("method", "stage"), [("prepare", "decode"), ("row", "describe")])
def test_an_image_that_ends_a_helper_process_becomes_an_error_row(method, stage, tmp_path):
    """The predictor goes on: only the helper process dies, and the others of its images are computed again."""
    kind, run = planned(tmp_path)
    predict(Deadly(kind.config, kind.card, kind.classes, method=method), run)
    check_rows(run, stage=stage)


def test_an_image_that_ends_the_crf_becomes_an_error_row(tmp_path):
    kind, run = planned(tmp_path, crf=True)
    predict(Deadly(kind.config, kind.card, kind.classes, method="row"), run)
    check_rows(run, stage="crf")


class Deadly(SegmentationRun):
    """A run whose helper processes die in one of its methods, as a crash in a C library would make them."""

    def __init__(self, *arguments, method: str):
        super().__init__(*arguments)
        self.method = method

    def prepare(self, pixels):
        if self.method == "prepare" and (pixels[0, 0] == DEADLY).all():
            ctypes.string_at(0)  # reads address 0
        return super().prepare(pixels)

    def row(self, fetched, result):
        if self.method == "row" and fetched.image_id == "2.png":
            ctypes.string_at(0)  # reads address 0
        return super().row(fetched, result)


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
