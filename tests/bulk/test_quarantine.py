"""An image that kills its process is identified and left out, and nothing else is lost."""

import ctypes
import multiprocessing
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.bulk.quarantine import ATTEMPTS_BEFORE_CARE, DEATHS_TO_CONVICT, Quarantine
from pipeline.bulk.segmentation.run import SegmentationRun
from pipeline.data.images import decode_mask
from tests.support.shards import compute_shard, planned_run

DEADLY = (255, 0, 0)
COLOURS = [(0, 0, 90), (0, 40, 90), DEADLY, (0, 120, 90), (0, 160, 90)]


def attempt(kind: SegmentationRun, run: str) -> None:
    """Compute the shard as a process of Ray does; a red image ends the process, as a crash in a C library would."""
    from pipeline.predict.segmenter import Segmenter

    segment = Segmenter.__call__

    def crash(self: Segmenter, images: list) -> list:
        if any((image[0, 0] == DEADLY).all() for image in images):
            os._exit(139)
        return segment(self, images)

    Segmenter.__call__ = crash  # type: ignore[method-assign, assignment]
    compute_shard(kind, run)


def check_rows(run: str, *, stage: str) -> None:
    """Each image has its row, and only the deadly one is an error."""
    rows = pq.read_table(f"{run}/images/part-00000.parquet").to_pylist()
    assert [row["image_id"] for row in rows] == [f"{i}.png" for i in range(5)]
    assert [row["error_class"] for row in rows] == [None, None, "ProcessDied", None, None]
    assert rows[2]["error_stage"] == stage
    assert all(decode_mask(row["mask"]["bytes"]).shape == (16, 16) for row in rows if row["status"] == "ok")


def test_an_image_that_ends_the_predictor_becomes_an_error_row(tmp_path):
    kind, run = planned_run(tmp_path, colours=COLOURS)
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
    kind, run = planned_run(tmp_path, colours=COLOURS)
    compute_shard(Deadly(kind.config, kind.card, kind.classes, method=method), run)
    check_rows(run, stage=stage)


def test_an_image_that_ends_the_crf_becomes_an_error_row(tmp_path):
    kind, run = planned_run(tmp_path, colours=COLOURS, crf=True)
    compute_shard(Deadly(kind.config, kind.card, kind.classes, method="row"), run)
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
