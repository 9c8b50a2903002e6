"""The CRF stage of a bulk run, and the search for its parameters, on a real Ray."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline import bundle
from pipeline.bulk.config import BulkScaling
from pipeline.bulk.results import read_file
from pipeline.bulk.run import format_run, run_bulk
from pipeline.bulk.segmentation import tune_crf
from pipeline.bulk.segmentation.config import SegmentConfig, TuneConfig
from pipeline.bulk.segmentation.run import SegmentationRun, segment
from pipeline.bulk.segmentation.tables import format_report
from pipeline.card import read_card
from pipeline.crf import CRFParams, crf_of_scores
from pipeline.data.images import decode_image, decode_mask
from pipeline.errors import UserError
from pipeline.predict.segmenter import Segmenter
from tests.support.jobs import succeed
from tests.support.runs import rows_of

pytestmark = pytest.mark.timeout(600)

PARAMS = CRFParams(sigma_alpha=30, sigma_beta=8)
IMAGES = 5
ROUNDED = {"mask", "crf_changed_px", "tp", "pred", "confusion"}  # columns that a pixel with another label changes


@pytest.fixture(scope="module")
def night(scenes, tmp_path_factory) -> Path:
    """A few scenes with labels, one of them stored on its side, one broken."""
    folder = tmp_path_factory.mktemp("night")
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for i in range(IMAGES - 1):
        image = next(Path(scenes, "night/images").glob(f"scene_{i:05d}.*"))
        shutil.copy(image, folder / "images")
        shutil.copy(Path(scenes, "night/labels", f"scene_{i:05d}.png"), folder / "labels")
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(image) as last, Image.open(folder / "labels" / f"scene_{i:05d}.png") as label:
        last.transpose(Image.Transpose.ROTATE_90).save(folder / "images" / f"side.{image.suffix}", exif=exif)
        label.transpose(Image.Transpose.ROTATE_90).save(folder / "labels" / "side.png")
    (folder / "images" / "torn.jpg").write_bytes(b"half an upload")
    return folder


@pytest.fixture(scope="module")
def runs(night, trained_on_s3, tmp_path_factory, ray_driver) -> tuple[str, str]:
    """The same images without and with a CRF."""
    output = str(tmp_path_factory.mktemp("runs"))
    config = SegmentConfig(
        model=trained_on_s3,
        images=f"{night}/images",
        labels=f"{night}/labels",
        output=output,
        scaling=BulkScaling(actors=1),
    )
    plain, refined = segment(config), segment(config.model_copy(update={"crf": True, "crf_params": PARAMS}))
    assert plain
    assert refined
    return plain, refined


def masks_of(run: str) -> dict[str, np.ndarray]:
    """Return the masks of a run by image."""
    return {row["image_id"]: decode_mask(row["mask"]["bytes"]) for row in rows_of(run).to_pylist() if row["mask"]}


def test_masks_are_those_of_the_crf(runs, night, trained_on_s3):
    model, card = bundle.load_bundle(trained_on_s3)
    segmenter = Segmenter(model, preprocessing=card.preprocessing, device=torch.device("cpu"), keep_scores=True)
    masks = masks_of(runs[1])
    assert len(masks) == IMAGES
    for path in (night / "images").iterdir():
        if path.name == "torn.jpg":
            continue
        decoded = decode_image(path.read_bytes())
        (predicted,) = segmenter([decoded.pixels])
        assert predicted.scores is not None
        expected = crf_of_scores(decoded.pixels, predicted.scores, stride=predicted.stride, params=PARAMS).labels
        on_stored = np.rot90(expected) if decoded.orientation == 6 else expected
        # oneDNN may compute an image differently in a batch, and a few pixels may round to another label.
        assert (masks[path.name] != on_stored).mean() < 1e-3, path.name


class InPredictor(SegmentationRun):
    """A run whose predictors refine the masks, whatever their device is: on a real cluster, that is a GPU."""

    def placed(self, *, use_gpu: bool | None) -> tuple[SegmentationRun, str]:
        return super().placed(use_gpu=True)


def test_rows_are_the_same_where_the_predictors_refine(runs, night, trained_on_s3, tmp_path, capsys):
    """The two implementations round differently, so a few pixels may have another label."""
    config = SegmentConfig(
        model=trained_on_s3, images=f"{night}/images", labels=f"{night}/labels", output=str(tmp_path), crf=True,
        crf_device="gpu", crf_params=PARAMS, scaling=BulkScaling(actors=1),
    )  # fmt: skip
    card = read_card(trained_on_s3)
    run = run_bulk(InPredictor(config, card, card.classes))
    assert "the dense CRF runs in the predictors" in capsys.readouterr().out
    assert run
    in_tasks, in_predictors = (rows_of(run).to_pylist() for run in (runs[1], run))
    for task, predictor in zip(in_tasks, in_predictors, strict=True):
        assert task.keys() == predictor.keys()
        rounded = {name for name in task if name.startswith(("t_", "px_")) or name in ROUNDED}
        assert all(task[name] == predictor[name] for name in task.keys() - rounded), task["image_id"]
        assert (predictor["t_crf_ms"] is None) == (predictor["status"] == "error")
        if predictor["status"] == "ok":
            assert predictor["crf_changed_px"] == pytest.approx(task["crf_changed_px"], rel=0.01)
    masks, expected = masks_of(run), masks_of(runs[1])
    assert masks.keys() == expected.keys()
    assert all((masks[name] != expected[name]).mean() < 1e-3 for name in masks)
    scores, before = (read_file(r, "dataset_report/dataset_report.parquet").to_pylist() for r in (run, runs[1]))
    assert scores[0] == before[0]
    assert scores[1]["miou"] == pytest.approx(before[1]["miou"], abs=1e-3)


def test_rows_count_the_pixels_that_the_crf_changed(runs):
    plain, refined = masks_of(runs[0]), masks_of(runs[1])
    rows = {row["image_id"]: row for row in rows_of(runs[1]).to_pylist()}
    assert rows["torn.jpg"]["status"] == "error"
    assert rows["torn.jpg"]["error_stage"] == "decode"
    assert rows["torn.jpg"]["crf_changed_px"] is None
    for name, mask in refined.items():
        assert rows[name]["crf_changed_px"] == np.count_nonzero(mask != plain[name])
        assert rows[name]["t_crf_ms"] > 0
    assert sum(rows[name]["crf_changed_px"] for name in refined) > 0


def test_reports_show_the_scores_before_and_after(runs):
    (before,) = read_file(runs[0], "dataset_report/dataset_report.parquet").to_pylist()
    raw, crf = read_file(runs[1], "dataset_report/dataset_report.parquet").to_pylist()
    assert (raw["stage"], crf["stage"]) == ("raw", "crf")
    assert raw == before
    assert crf["miou"] != raw["miou"]
    classes = read_file(runs[1], "class_report/class_report.parquet")
    assert classes["stage"].to_pylist() == ["raw"] * 6 + ["crf"] * 6
    text = format_run(runs[1], format_report)
    assert f"{crf['miou'] - raw['miou']:+.4f}" in text
    page = Path(runs[1], "report.html").read_text()
    assert f"{raw['miou']:.4f}" in page
    assert f"{crf['miou']:.4f}" in page


def test_an_image_that_the_crf_refuses_is_an_error_row(night, trained_on_s3, tmp_path, ray_driver):
    narrow = CRFParams(sigma_beta=1e-6)
    run = segment(
        SegmentConfig(model=trained_on_s3, images=f"{night}/images", output=str(tmp_path), crf=True, crf_params=narrow)
    )
    assert run
    rows = rows_of(run).to_pylist()
    assert len(rows) == IMAGES + 1
    assert sorted(row["error_stage"] for row in rows) == ["crf"] * IMAGES + ["decode"]
    assert all("take a larger width" in row["error_message"] for row in rows if row["error_stage"] == "crf")


def test_options_of_a_crf_need_a_crf():
    with pytest.raises(ValueError, match="need --crf"):
        SegmentConfig(model="m", images="i", output="o", crf_params=PARAMS)


def test_the_search_compares_with_the_default_and_with_none(night, trained_on_s3, tmp_path, ray_head, runs):
    text = succeed(
        "tune_crf",
        environment=ray_head.environment,
        model=trained_on_s3,
        images=f"{night}/images",
        labels=f"{night}/labels",
        output=str(tmp_path),
        w1="3",
        sigma_alpha="30",
        sigma_beta="[4,8]",
        fine_rounds="0",
        class_factors="[0.5,2]",
        **{"crf_params.sigma_alpha": "30", "crf_params.sigma_beta": "8"},
    )
    trials = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    worse = [k for k, iou in enumerate(max(trials[1:4], key=lambda t: t["miou"])["iou"]) if iou < trials[0]["iou"][k]]
    of_classes = [trial["compatibility"] for trial in trials if trial["round"] == "class"]
    assert len(of_classes) == 2 * len(worse)
    assert [factors[k] for k, factors in zip(np.repeat(worse, 2), of_classes, strict=True)] == [0.5, 2] * len(worse)
    assert [trial["round"] for trial in trials][:4] == ["none", "default", "coarse", "coarse"]
    (raw, crf) = read_file(runs[1], "dataset_report/dataset_report.parquet")["miou"].to_pylist()
    assert trials[0]["miou"] == pytest.approx(raw, abs=1e-3)
    assert trials[1]["miou"] == pytest.approx(crf, abs=1e-3)
    assert trials[1]["gain"] == pytest.approx(trials[1]["miou"] - trials[0]["miou"])
    best = max(trials, key=lambda trial: trial["miou"])
    assert f"{best['miou']:.4f}" in text
    assert ("--crf-params.w1" in text) == (best["round"] != "none")
    assert "--crf" in text


def test_the_search_finds_the_same_beside_the_network(night, trained_on_s3, tmp_path, monkeypatch, ray_driver):
    """The network's device is a CPU here; on a cluster with GPUs it is one of those."""
    config = TuneConfig(
        model=trained_on_s3, images=f"{night}/images", labels=f"{night}/labels", output=str(tmp_path), w1=(3,),
        sigma_alpha=(30,), sigma_beta=(8,), fine_rounds=0, class_factors=(),
    )  # fmt: skip
    with pytest.raises(UserError, match="--crf-device gpu needs a GPU"):
        tune_crf.tune(config.model_copy(update={"crf_device": "gpu"}))
    expected = tune_crf.tune(config)
    monkeypatch.setattr(tune_crf, "_is_on_gpu", lambda config: True)
    found = tune_crf.tune(config)
    assert [trial.round for trial in found] == [trial.round for trial in expected] == ["none", "default", "coarse"]
    assert [trial.miou for trial in found] == pytest.approx([trial.miou for trial in expected], abs=1e-3)
    assert len({trial.miou for trial in found}) == 3
