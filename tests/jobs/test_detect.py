"""Objects in pictures through `segpipe detect`, on a real Ray: scores, interruptions, nights, refusals."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline import storage
from pipeline.bulk.results import read_file
from pipeline.demo.shapes import NAMES
from tests.support.detections import coco_json, save_detector, save_fitted_detector, write_pictures
from tests.support.jobs import kill_when, run_job, succeed
from tests.support.ray_head import RayHead
from tests.support.runs import rows_of, the_run

pytestmark = pytest.mark.timeout(900)  # whichever test comes first pays for the servers

COUNT = 20


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, count=COUNT)
    return folder


@pytest.fixture(scope="module")
def model(pictures: Path) -> str:
    """A detector that is fitted to other pictures, so that it makes mistakes."""
    other = pictures / "other"
    write_pictures(other, count=16, seed=1)
    save_fitted_detector(str(pictures / "model"), other)
    return str(pictures / "model")


def detections_of(rows: list[dict[str, Any]]) -> list[Any]:
    return [(row["image_id"], row["status"], row["detections"], row["candidates"]) for row in rows]


def test_a_run_is_scored_as_pycocotools_does_and_resumes_and_continues(
    pictures: Path, model: str, s3: str, tmp_path: Path, ray_head: RayHead
) -> None:
    """Killed while it writes, started again, and continued the next night with a picture more and a broken one."""
    images = tmp_path / "images"
    shutil.copytree(pictures / "images", images)
    storage.write_bytes(f"{s3}/detect/truth.json", coco_json(pictures).encode())
    options: dict[str, Any] = {
        "model": model,
        "images": str(images),
        "truth": f"{s3}/detect/truth.json",
        "output": str(tmp_path / "runs"),
        "run_id": "first",
        "sharding__max_images": 2,
        "scaling__actors": 1,
        "environment": ray_head.environment,
    }
    parts = tmp_path / "runs" / "run_id=first" / "_run" / "parts"
    kill_when(lambda: parts.is_dir() and any(parts.glob("*.parquet")), "detect", **options)
    text = succeed("detect", **options)
    assert "resuming: " in text
    end = json.loads(text.splitlines()[-1])
    assert (end["images"], end["errors"], end["exit_code"]) == (COUNT, 0, 0)
    run = str(tmp_path / "runs" / "run_id=first")
    rows = rows_of(run).to_pylist()
    assert [row["image_id"] for row in rows] == sorted(file.name for file in images.iterdir())

    *scores, mean = read_file(run, "detection_report/detection_report.parquet").to_pylist()
    expected = pycocotools_scores(pictures, rows)
    for name, value in expected.items():
        assert mean[name] == pytest.approx(value, abs=1e-12)
    assert 0.05 < mean["coco50"] < 1
    assert f"{mean['coco']:.4f}" in text
    assert [row["class"] for row in scores] == list(NAMES)
    recall = read_file(run, "proposal_recall/proposal_recall.parquet").to_pylist()
    assert {row["boxes"] for row in recall} == {mean["boxes"]}
    page = Path(run, "report.html").read_text()
    assert "<h2>Precision over recall</h2>" in page
    assert "Recall of the proposals" in page
    assert page.count("data:image/jpeg") > 0  # pictures
    assert page.count('data-layer="true boxes"') == page.count("data:image/jpeg")
    assert Path(run, "sheet.png").read_bytes().startswith(b"\x89PNG")

    extra = sorted((pictures / "other" / "images").iterdir())[0]
    shutil.copy(extra, images / "zz.png")
    (images / "zzz.png").write_bytes(b"no picture")
    night = {name: value for name, value in options.items() if name != "truth"}
    result = run_job("detect", **night | {"run_id": "second", "since": "last", "max_error_rate": 0.1})
    assert result.returncode == 4, result.stderr[-2000:]
    news = rows_of(str(tmp_path / "runs" / "run_id=second")).to_pylist()
    assert [(row["image_id"], row["status"], row["error_stage"]) for row in news] == [
        ("zz.png", "ok", None),
        ("zzz.png", "error", "decode"),
    ]
    assert "truth" not in news[0]


def pycocotools_scores(pictures: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(coco_json(pictures))
        truth.createIndex()
        numbers = {image["file_name"]: image["id"] for image in truth.dataset["images"]}
        results = [
            {
                "image_id": numbers[row["image_id"]],
                "category_id": NAMES.index(box["class"]),
                "bbox": [box["xmin"], box["ymin"], box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]],
                "score": box["score"],
            }
            for row in rows
            for box in row["detections"]
        ]
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(("coco", "coco50", "coco75"), evaluation.stats.tolist()[:3], strict=True))


def test_a_run_without_truth_does_not_depend_on_its_shards(
    pictures: Path, model: str, tmp_path: Path, ray_head: RayHead
) -> None:
    """Cut into other shards and computed by two predictors: batches have other members, the boxes stay."""
    runs = []
    for name, images in (("one", 4), ("two", 64)):
        succeed(
            "detect",
            model=model,
            images=str(pictures / "images"),
            output=str(tmp_path / name),
            sharding__max_images=images,
            scaling__actors=2 if name == "one" else 1,
            environment=ray_head.environment,
        )
        run = the_run(str(tmp_path / name))
        runs.append(rows_of(run).to_pylist())
        assert not list(Path(run).glob("detection_report"))
        assert Path(run, "sheet.png").exists()
    for one, two in zip(*runs, strict=True):
        assert [box["class"] for box in one["detections"]] == [box["class"] for box in two["detections"]]
        for a, b in zip(one["detections"], two["detections"], strict=True):
            numbers = [[value for value in box.values() if not isinstance(value, str)] for box in (a, b)]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-3)


def test_shards_are_small_for_detectors_with_proposals(tmp_path: Path) -> None:
    """Without a row for a quarter of an hour, nobody sees that a run goes on, and an interruption costs it all."""
    images = tmp_path / "images"
    images.mkdir()
    for i in range(2560):
        (images / f"{i}.jpg").touch()
    for name, shards in (("fast_rcnn_alexnet", 52), ("yolo_fast", 44)):
        save_detector(str(tmp_path / name), name=name, width=0.05)
        options: dict[str, Any] = {"model": str(tmp_path / name), "images": str(images), "output": str(tmp_path)}
        assert f" {shards} shards" in succeed("detect", **options, dry_run=True)


@pytest.mark.parametrize(
    ("job", "message"), [("segment", "is a detector; use it with segpipe detect"), ("localize", "is a detector")]
)
def test_other_jobs_refuse_a_detector(job: str, message: str, tmp_path: Path) -> None:
    save_detector(str(tmp_path / "model"), name="yolo_fast", width=0.05, grid=1)
    result = run_job(job, model=str(tmp_path / "model"), images=str(tmp_path), output=str(tmp_path / "runs"))
    assert result.returncode == 2
    assert message in result.stderr


def test_a_classifier_and_truth_of_other_images_are_refused(pictures: Path, model: str, tmp_path: Path) -> None:
    card = json.loads(Path(model, "card.json").read_text())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "card.json").write_text(json.dumps(card | {"detector": None}))
    options: dict[str, Any] = {"images": str(pictures / "images"), "output": str(tmp_path / "runs")}
    result = run_job("detect", model=str(tmp_path / "other"), **options)
    assert result.returncode == 2
    assert "is no detector; use it with segpipe segment" in result.stderr
    (tmp_path / "boxes.csv").write_text("image,label,xmin,ymin,xmax,ymax\nnowhere.png,disc,1,1,5,5\n")
    result = run_job("detect", model=model, truth=str(tmp_path / "boxes.csv"), **options)
    assert result.returncode == 2
    assert "names none of the images" in result.stderr
