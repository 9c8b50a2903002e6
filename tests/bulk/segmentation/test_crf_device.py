"""Where the dense CRF of a bulk run computes, and that its rows are the same in a predictor and in a task.

A run with `crf_device="gpu"` computes the CRF in its predictor, on the predictor's device. That is a CPU here.
"""

from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import SegmentationRun
from pipeline.card import Card
from pipeline.crf import CRFParams, gpu
from pipeline.data.classes import Classes
from pipeline.errors import UserError
from tests.support.shards import compute_shard, planned_run

COLOURS = [(30 * i, 255 - 40 * i, 90) for i in range(4)]


def kind_of(**options: Any) -> SegmentationRun:
    classes = Classes(names=("a", "b"))
    config = SegmentConfig(model="m", images="i", output="o", **options)
    return SegmentationRun(config, Card(architecture="fcn32s_vgg16", options={}, classes=classes), classes)


@pytest.mark.parametrize(
    ("device", "use_gpu", "in_tasks", "line"),
    [
        ("auto", True, False, "in the predictors, on their GPUs (--crf-device auto, predictors with GPUs)"),
        ("auto", False, True, "in CPU tasks (--crf-device auto, predictors without GPUs)"),
        ("auto", None, True, "in the predictors if they have GPUs, else in CPU tasks (--crf-device auto)"),
        ("cpu", True, True, "in CPU tasks (--crf-device cpu, predictors with GPUs)"),
        ("cpu", None, True, "in CPU tasks (--crf-device cpu)"),
        ("gpu", True, False, "in the predictors, on their GPUs (--crf-device gpu, predictors with GPUs)"),
        ("gpu", None, False, "in the predictors, on their GPUs (--crf-device gpu)"),
    ],
)
def test_the_crf_follows_the_predictors(device: str, use_gpu: bool | None, in_tasks: bool, line: str) -> None:
    kind = kind_of(crf=True, crf_device=device)
    placed, note = kind.placed(use_gpu=use_gpu)
    assert placed.refines == in_tasks
    assert note == f"the dense CRF runs {line}"
    assert kind.config.crf_device == device


def test_a_gpu_that_is_not_there_is_a_mistake_of_the_user() -> None:
    with pytest.raises(UserError, match="--crf-device gpu needs predictors with GPUs"):
        kind_of(crf=True, crf_device="gpu").placed(use_gpu=False)


def test_without_a_crf_nothing_is_placed() -> None:
    kind = kind_of()
    assert kind.placed(use_gpu=True) == (kind, "")
    with pytest.raises(ValueError, match="--crf-device and --crf-params need --crf"):
        kind_of(crf_device="gpu")


def test_the_device_is_not_part_of_a_run_so_that_another_cluster_resumes_it() -> None:
    options = [kind_of(crf=True, crf_device=device).config.deciding_options() for device in ("auto", "cpu", "gpu")]
    assert options[0] == options[1] == options[2]


@pytest.mark.parametrize("case", ["refined", "refused", "no memory"])
def test_rows_are_the_same_in_a_predictor_and_in_a_task(case: str, tmp_path, monkeypatch) -> None:
    """Neither an image that the CRF refuses nor one that does not fit the memory of the device makes a difference."""
    params = CRFParams(sigma_beta=1e-6) if case == "refused" else CRFParams()
    in_tasks, run = planned_run(tmp_path, colours=COLOURS, size=(60, 40), crf=True, crf_params=params)
    compute_shard(in_tasks, run)
    part = f"{run}/_run/parts/part-00000.parquet"
    expected = pq.read_table(part).to_pylist()

    calls = []
    refine_batch = gpu.refine_batch

    def recorded(*arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        if case == "no memory":
            raise torch.OutOfMemoryError
        return refine_batch(*arguments, **options)

    monkeypatch.setattr(gpu, "refine_batch", recorded)
    config = in_tasks.config.model_copy(update={"crf_device": "gpu"})
    in_predictor = SegmentationRun(config, in_tasks.card, in_tasks.classes)
    assert not in_predictor.refines
    compute_shard(in_predictor, run)
    rows = pq.read_table(part).to_pylist()
    assert len(calls) == (1 if case == "refined" else 1 + len(COLOURS)), "a batch, and then its images"
    assert [without_times(row) for row in rows] == [without_times(row) for row in expected]
    statuses = {(row["status"], row["error_stage"]) for row in rows}
    assert statuses == {("error", "crf") if case == "refused" else ("ok", None)}
    assert all((row["t_crf_ms"] is None) == (case == "refused") for row in rows)


def without_times(row: dict) -> dict:
    return {name: value for name, value in row.items() if not name.startswith("t_")}
