"""Processes that die while they compute images: only an image that ends a process again and again is left out."""

import multiprocessing
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.bulk.attempts import DRIVERS_BEFORE_CARE, HOPELESS, attempt
from pipeline.bulk.forward import LOST
from pipeline.bulk.segmentation.run import SegmentationRun
from pipeline.data.images import decode_mask
from tests.support.deadly import DEADLY, Deadly
from tests.support.shards import compute_shard, planned_run

COLOURS = [(0, 0, 90), (0, 40, 90), DEADLY, (0, 120, 90), (0, 160, 90)]


@pytest.fixture
def deaths(tmp_path: Path) -> Path:
    folder = tmp_path / "deaths"
    folder.mkdir()
    return folder


def rows_of(run: str) -> list[dict[str, Any]]:
    return pq.read_table(f"{run}/_run/parts/part-00000.parquet").to_pylist()


def check_rows(run: str, *, stage: str, cause: str) -> None:
    """Each image has its row, and only the deadly one is an error."""
    rows = rows_of(run)
    assert [row["image_id"] for row in rows] == [f"{i}.png" for i in range(5)]
    assert [row["error_class"] for row in rows] == [None, None, "ProcessDied", None, None]
    assert rows[2]["error_stage"] == stage
    assert cause in rows[2]["error_message"]
    assert all(decode_mask(row["mask"]["bytes"]).shape == (16, 16) for row in rows if row["status"] == "ok")


def compute_in_a_process(kind: SegmentationRun, run: str) -> int | None:
    """Compute the shard as a process of Ray does, and return its exit code."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["pipeline.bulk.segmentation.predictor"])  # imported once, not by each process
    process = processes.Process(target=compute_shard, args=(kind, run))
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("options", [{}, {"crf": True}])
def test_an_image_that_ends_the_predictor_becomes_an_error_row(options, tmp_path, deaths):
    """The second attempt computes the shard in a process of its own, and survives it."""
    kind, run = planned_run(tmp_path, colours=COLOURS, **options)
    kind = Deadly(kind, step="predict", deaths=deaths)
    assert compute_in_a_process(kind, run) == -signal.SIGSEGV
    assert compute_in_a_process(kind, run) == 0
    check_rows(run, stage="predict", cause="SIGSEGV")
    assert len(list(deaths.iterdir())) == 4  # in a batch twice, and alone twice
    assert len(list(Path(run, "_run/attempts/00000").iterdir())) == 1  # the mark of the process that died


def test_an_image_that_loses_the_device_for_good_becomes_an_error_row_and_no_other_does(tmp_path, deaths):
    kind, run = planned_run(tmp_path, colours=COLOURS)
    kind = Deadly(kind, step="lose", deaths=deaths)
    assert compute_in_a_process(kind, run) == LOST
    assert compute_in_a_process(kind, run) == 0
    check_rows(run, stage="predict", cause=f"exit code {LOST}")


def test_a_device_that_fails_with_every_image_condemns_none(tmp_path, deaths):
    kind, run = planned_run(tmp_path, colours=[DEADLY] * 5)
    kind = Deadly(kind, step="lose", deaths=deaths)
    assert compute_in_a_process(kind, run) == LOST
    block = compute_shard(kind, run)
    assert "the device fails with one image after the other" in block["reason"][0].as_py()
    assert not Path(run, "_run/parts/part-00000.parquet").exists()


def test_a_predictor_that_is_killed_condemns_no_image(tmp_path, deaths):
    """However often, and whatever it computes: the rows are those of an undisturbed run to the last bit."""
    kind, run = planned_run(tmp_path, colours=COLOURS)
    compute_shard(kind, run)
    expected = rows_of(run)
    Path(run, "_run/parts/part-00000.parquet").unlink()
    deadly = Deadly(kind, step="predict", deaths=deaths, how=signal.SIGKILL, times=3)
    assert compute_in_a_process(deadly, run) == -signal.SIGKILL
    assert compute_in_a_process(deadly, run) == 0
    untimed = [{k: v for k, v in row.items() if not k.startswith("t_")} for row in rows_of(run)]
    assert untimed == [{k: v for k, v in row.items() if not k.startswith("t_")} for row in expected]


@pytest.mark.parametrize(
    ("step", "stage", "how", "cause"),
    [
        ("prepare", "decode", signal.SIGSEGV, "SIGSEGV"),
        ("row", "describe", signal.SIGSEGV, "SIGSEGV"),
        ("prepare", "decode", signal.SIGKILL, "out of memory?"),
    ],
)
def test_an_image_that_ends_a_helper_process_becomes_an_error_row(step, stage, how, cause, tmp_path, deaths):
    """The predictor goes on: only the helper process dies, and the others of its images are computed again."""
    kind, run = planned_run(tmp_path, colours=COLOURS)
    compute_shard(Deadly(kind, step=step, deaths=deaths, how=how), run)
    check_rows(run, stage=stage, cause=cause)


def test_an_image_that_ends_the_crf_becomes_an_error_row(tmp_path, deaths):
    kind, run = planned_run(tmp_path, colours=COLOURS, crf=True)
    compute_shard(Deadly(kind, step="row", deaths=deaths), run)
    check_rows(run, stage="crf", cause="SIGSEGV")


@pytest.mark.parametrize("step", ["prepare", "row"])
def test_helper_processes_that_are_killed_condemn_no_image(step, tmp_path, deaths):
    kind, run = planned_run(tmp_path, colours=COLOURS)
    compute_shard(Deadly(kind, step=step, deaths=deaths, how=signal.SIGKILL, times=4), run)
    assert [row["status"] for row in rows_of(run)] == ["ok"] * 5


def test_marks_of_dead_processes_call_for_care(tmp_path):
    run = str(tmp_path)
    marks = tmp_path / "_run/attempts/00007"
    with attempt(run, 7, "me") as deaths:
        assert not deaths.call_for_care
        assert len(list(marks.iterdir())) == 1
    assert not list(marks.iterdir())
    for earlier in range(DRIVERS_BEFORE_CARE):
        with attempt(run, 7, "me") as deaths:
            assert deaths == (0, earlier)
            assert not deaths.call_for_care
        (marks / f"driver{earlier}-x").touch()
    with attempt(run, 7, "me") as deaths:
        assert deaths.call_for_care
    (marks / "me-x").touch()
    with attempt(run, 7, "me") as deaths:
        assert deaths == (1, DRIVERS_BEFORE_CARE)
    with attempt(run, 8, "me") as deaths:
        assert deaths == (0, 0)


def test_a_shard_whose_processes_die_again_and_again_is_left_undone(tmp_path):
    kind, run = planned_run(tmp_path, colours=COLOURS)
    marks = Path(run, "_run/attempts/00000")
    marks.mkdir(parents=True)
    for i in range(HOPELESS):
        (marks / f"me-{i}").touch()
    (counts,) = compute_shard(kind, run).to_pylist()
    assert (counts["images"], counts["errors"]) == (5, 0)
    assert "enough memory" in counts["reason"]
    assert not Path(run, "_run/parts").exists()
