"""From image labels to heatmaps, boxes and masks, through the jobs, from and to a real S3 server."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import bundle, parquet, storage
from pipeline.bulk.config import BulkScaling
from pipeline.bulk.localization.config import LocalizeConfig
from pipeline.bulk.localization.run import localize
from pipeline.bulk.localization.scores import score_map
from pipeline.bulk.localization.truth import ImageTruth
from pipeline.bulk.results import read_file
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import segment
from pipeline.cam.options import MapOptions
from pipeline.card import read_card
from pipeline.data.classes import load_classes
from pipeline.data.datasets import pair, read_sample
from pipeline.data.images import decode_heatmap, decode_image, decode_mask, decode_raw_label, resize
from pipeline.demo.shapes import NAMES, write_shapes
from pipeline.errors import UserError
from pipeline.metrics.localization import PixelHits, best_ious, box_hits, pixel_hits, resized_box, thresholds
from pipeline.metrics.ranking import average_precision
from pipeline.predict.classifier import Classifier
from pipeline.training.classification.config import LabelledImages, TrainClassifierConfig
from pipeline.training.classification.task import classification_task
from pipeline.training.records import read_validation
from tests.support.jobs import run_job, succeed
from tests.support.ray_head import RayHead
from tests.support.runs import rows_of

pytestmark = pytest.mark.timeout(900)  # whichever test comes first pays for the servers and the trained bundle

SIZE = 64
COUNTS = {"train": 160, "val": 40}
MIN_PROBABILITY = 0.3  # below the default, because the classifier is trained for seconds only


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory, s3: str) -> str:
    """Pictures of shapes on S3; `val/images` also holds a file that is not an image."""
    folder = tmp_path_factory.mktemp("shapes")
    for seed, (name, count) in enumerate(COUNTS.items()):
        write_shapes(folder / name, count=count, seed=seed)
    (folder / "val" / "images" / "broken.png").write_bytes(b"no image")
    for file in Path(folder).rglob("*.*"):
        storage.write_bytes(f"{s3}/shapes/{file.relative_to(folder)}", file.read_bytes())
    return f"{s3}/shapes"


def labelled(shapes: str, part: str) -> dict[str, str]:
    """Return the options of `jobs/train_classifier.py` for the images and classes of a part."""
    return {f"{part}__images": f"{shapes}/{part}/images", f"{part}__labels": f"{shapes}/{part}/labels.csv"}


@pytest.fixture(scope="module")
def classifier(shapes: str, s3: str, ray_head: RayHead) -> str:
    """The bundle of a small classifier that was told only which shapes each picture shows."""
    output = f"{s3}/shapes-classifier"
    succeed(
        "train_classifier",
        environment=ray_head.environment,
        **labelled(shapes, "train"),
        **labelled(shapes, "val"),
        model="resnet18_cam",
        model_options="width=0.25",
        input_size=f"{SIZE},{SIZE}",
        augmentation__crop=f"{SIZE},{SIZE}",
        augmentation__scale="0.9,1.2",
        output=output,
        epochs=2,
        batch_size=16,
        optimiser__lr=0.05,
    )
    return output


@pytest.fixture(scope="module")
def run(classifier: str, shapes: str, s3: str, ray_head: RayHead) -> str:
    """A finished localization of the validation pictures, whose classes and boxes are known."""
    text = succeed(
        "localize",
        environment=ray_head.environment,
        model=classifier,
        images=f"{shapes}/val/images",
        truth=f"{shapes}/val/boxes.csv",
        foreground=f"{shapes}/val/labels",
        output=f"{s3}/localized",
        run_id="all",
        sharding__max_images=16,
        scaling__actors=1,
        mask="threshold",
        min_probability=MIN_PROBABILITY,
    )
    assert f"{COUNTS['val'] + 1} images, 1 errors" in text
    assert "centred box" in text
    return f"{s3}/localized/run_id=all"


def load_classifier(url: str) -> Classifier:
    """Load a bundle as a classifier on the CPU."""
    network, card = bundle.load_bundle(url)
    assert card.classifier is not None
    return Classifier(
        network,
        classifier_input=card.classifier,
        preprocessing=card.preprocessing,
        device=torch.device("cpu"),
    )


def row_dicts(run: str) -> list[dict[str, Any]]:
    """Return the rows of a run as dicts."""
    return rows_of(run).to_pylist()


def test_the_recorded_score_is_the_bundles(classifier: str, shapes: str) -> None:
    records = [json.loads(line) for line in storage.read_bytes(f"{classifier}/metrics.jsonl").splitlines()]
    best = max(records, key=lambda record: record["mean_ap"])
    card = read_card(classifier)
    assert card.classes.names == NAMES
    assert card.classifier is not None
    assert card.classifier.multi_label
    rows = read_validation(classifier)
    assert len(rows) == COUNTS["val"]
    ours = load_classifier(classifier)
    row = rows[7]
    pixels = decode_image(storage.read_bytes(f"{shapes}/val/images/{row['key']}.png")).pixels
    (expected,) = ours([resize(pixels, card.classifier.size)])
    np.testing.assert_allclose(row["probabilities"], expected.probabilities, atol=1e-3)
    present = np.array([[k in row["labels"] for k in range(3)] for row in rows])
    probabilities = np.array([row["probabilities"] for row in rows])
    scores = [average_precision(probabilities[:, k], present[:, k]) for k in range(3)]
    assert best["mean_ap"] == pytest.approx(np.mean(scores))
    assert b"average precision" in storage.read_bytes(f"{classifier}/report.html")


def test_each_image_is_one_row_with_what_was_found(run: str) -> None:
    rows = row_dicts(run)
    assert len(rows) == COUNTS["val"] + 1
    assert [row["image_id"] for row in rows] == sorted(row["image_id"] for row in rows)
    (broken,) = [row for row in rows if row["status"] == "error"]
    assert (broken["image_id"], broken["error_stage"]) == ("broken.png", "decode")
    assert 0 < sum(any(c["found"] for c in row["classes"] or []) for row in rows) < len(rows)
    for row in rows:
        if row is broken:
            continue
        found = [c for c in row["classes"] if c["found"]]
        assert [c["class"] for c in found] == [
            NAMES[k] for k in np.argsort(-np.array(row["probabilities"])) if row["probabilities"][k] >= MIN_PROBABILITY
        ]
        for entry in row["classes"]:
            heatmap = decode_heatmap(entry["heatmap"]["bytes"], entry["scale"], entry["offset"])
            assert heatmap.shape == (SIZE // 16, SIZE // 16)
            assert heatmap.min() == pytest.approx(entry["map_min"], abs=1e-4)
            assert heatmap.max() == pytest.approx(entry["map_max"], abs=1e-4)
            for box in entry["boxes"]:
                assert 0 <= box["left"] < box["right"] <= row["width"]
                assert 0 <= box["top"] < box["bottom"] <= row["height"]
        # What is known to be there has a map to be scored, and a box only if it was found.
        others = [c for c in row["classes"] if not c["found"]]
        assert {c["class"] for c in others} == set(row["known"]) - {c["class"] for c in found}
        assert all(not c["boxes"] for c in others)
        mask = decode_mask(row["mask"]["bytes"])
        assert mask.shape == (row["height"], row["width"])
        assert set(np.unique(mask)) <= {0, *(NAMES.index(c["class"]) + 1 for c in found)}


def test_scores_are_those_of_a_plain_loop(run: str, classifier: str, shapes: str) -> None:
    """One image at a time, from pixels to hits, without the engine."""
    ours = load_classifier(classifier)
    steps, best, ranks = thresholds(0.01), [], []
    pixels_hit = PixelHits.zeros(len(steps))
    for line in storage.read_bytes(f"{shapes}/val/boxes.csv").decode().splitlines()[1:]:
        name, label, *corners = line.split(",")
        pixels = decode_image(storage.read_bytes(f"{shapes}/val/images/{name}")).pixels
        (expected,) = ours([resize(pixels, (SIZE, SIZE))])
        k = NAMES.index(label)
        raw = torch.from_numpy(expected.maps([k]))[None]
        full = torch.nn.functional.interpolate(raw, (SIZE, SIZE), mode="bicubic")[0, 0].numpy()
        scaled = (full - full.min()) / (full.max() - full.min())
        truth = resized_box(np.array([corners], float), pixels.shape[1::-1], (SIZE, SIZE))
        best.append(best_ious(scaled, truth, steps=steps, regions="largest"))
        ranks.append(int((expected.probabilities > expected.probabilities[k]).sum()))
        labels = decode_raw_label(storage.read_bytes(f"{shapes}/val/labels/{name}")).astype(np.uint8)
        small = np.asarray(Image.fromarray(labels).resize((SIZE, SIZE), Image.Resampling.NEAREST))
        pixels_hit += pixel_hits(scaled.clip(0, 1), (small > 0).astype(int), steps=steps)
    hits = box_hits(np.array(best), np.array(ranks))
    table = read_file(run, "localization_report/localization_report.parquet").to_pylist()
    values = {(row["boxes"], row["score"].split(" ")[0]): row["value"] for row in table}
    assert values["map, largest region", "MaxBoxAcc"] == pytest.approx(hits.max_box_acc, abs=0.03)
    assert values["map, largest region", "top-1"] == pytest.approx(hits.accuracy("top1")[hits.best(1), 1], abs=0.05)
    assert ("centred box", "MaxBoxAccV2") in values
    assert values[None, "PxAP"] == pytest.approx(pixels_hit.px_ap, abs=0.02)
    curve = read_file(run, "localization_curve/localization_curve.parquet").to_pylist()
    assert max(r["gt_known"] for r in curve if (r["boxes"], r["iou"]) == ("map, largest region", 0.5)) == pytest.approx(
        values["map, largest region", "MaxBoxAcc"]
    )
    assert {row["images"] for row in curve} == {len(best)}


def test_a_threshold_is_carried_over_and_crf_masks_are_scored(
    run: str, classifier: str, shapes: str, s3: str, ray_driver: None
) -> None:
    config = LocalizeConfig(
        model=classifier,
        images=f"{shapes}/val/images",
        truth=f"{shapes}/val/boxes.csv",
        output=f"{s3}/localized",
        mask="crf",
        threshold_from=run,
        scaling=BulkScaling(actors=1),
        maps=MapOptions(flip=True),
    )
    other = localize(config)
    assert other is not None
    table = read_file(other, "localization_report/localization_report.parquet").to_pylist()
    chosen = read_file(run, "localization_report/localization_report.parquet").to_pylist()[0]["threshold"]
    carried = [row for row in table if row["score"].startswith("GT-known, threshold of")]
    assert [row["threshold"] for row in carried] == pytest.approx([chosen] * 3)
    text = succeed("evaluate", run=other, labels=f"{shapes}/val/labels", classes=f"{shapes}/val/classes.yaml")
    assert "background" in text
    assert "triangle" in text


def test_pseudo_labels_are_what_training_takes(run: str, shapes: str, s3: str, ray_head: RayHead) -> None:
    output = f"{s3}/pseudo"
    text = succeed("pseudo_labels", environment=ray_head.environment, run=run, output=output, no_crf=True)
    assert f"{COUNTS['val']} label maps, 1 errors" in text
    table = parquet.read_table(f"{output}/pseudo_labels.parquet").to_pylist()
    assert [row["status"] for row in table].count("error") == 1
    assert len(table) == COUNTS["val"] + 1
    classes = load_classes(f"{output}/classes.yaml")
    assert classes.names == ("background", *NAMES)
    pairs = pair(f"{shapes}/val/images", f"{output}/labels")
    assert len(pairs.samples) == COUNTS["val"]
    known = {row["image_id"]: row["known"] for row in row_dicts(run)}
    for sample in pairs.samples:
        _, labels = read_sample(sample, classes)
        shown = {classes.names[k] for k in np.unique(labels) if k not in (0, 255)}
        assert shown <= set(known[f"{sample.key}.png"])
        if not known[f"{sample.key}.png"]:
            assert (labels == 0).all()


def test_a_target_detector_is_checked_in_grey(
    run: str, classifier: str, shapes: str, s3: str, ray_head: RayHead
) -> None:
    options: dict[str, Any] = {
        "model": classifier,
        "positive": f"{shapes}/val/images",
        "negative": f"{shapes}/train/images",
        "output": f"{s3}/check",
    }
    result = run_job("check_detector", **options)
    assert result.returncode == 2
    assert "--target must be one of" in result.stderr
    succeed(
        "check_detector",
        environment=ray_head.environment,
        target="disc",
        truth=f"{shapes}/val/boxes.csv",
        views="grey",
        scaling__actors=1,
        **options,
    )
    (row,) = parquet.read_table(f"{s3}/check/detector_report.parquet").to_pylist()
    assert (row["view"], row["positive"], row["negative"], row["errors"]) == ("grey", 40, COUNTS["train"], 1)
    assert 0.2 < row["auc"] < 0.8  # both sets show discs
    # Without colours the classifier answers differently.
    in_colour = {row["image_id"]: row["probabilities"] for row in row_dicts(run)}
    grey = {row["image_id"]: row["probabilities"] for row in row_dicts(f"{s3}/check/grey/positive/run_id=all")}
    assert grey.keys() == in_colour.keys()
    assert grey != in_colour


def test_a_bundle_of_another_kind_is_refused(classifier: str, trained_on_s3: str, shapes: str, s3: str) -> None:
    images, output = f"{shapes}/val/images", f"{s3}/refused"
    with pytest.raises(UserError, match=r"use it with segpipe localize"):
        segment(SegmentConfig(model=classifier, images=images, output=output))
    with pytest.raises(UserError, match=r"use it with segpipe segment"):
        localize(LocalizeConfig(model=trained_on_s3, images=images, output=output))
    with pytest.raises(UserError, match="names none of the images"):
        localize(LocalizeConfig(model=classifier, images=images, output=output, truth=f"{shapes}/train/boxes.csv"))


def test_a_box_outside_the_image_is_cut_to_it_and_a_broken_mask_costs_its_score(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
    options: dict[str, Any] = {"rank": 0, "name": "cat", "size": (40, 60), "frame": (32, 32), "step": 0.1}
    beyond, whole = (
        score_map(raw, 0, ImageTruth([0], [(0, *box)], None), **options) for box in ((-9, -9, 500, 500), (0, 0, 59, 39))
    )
    for method in ("largest", "all", "centre"):
        np.testing.assert_array_equal(beyond[f"iou_{method}"], whole[f"iou_{method}"])
    (tmp_path / "mask.png").write_bytes(b"no mask")
    broken = score_map(raw, 0, ImageTruth([0], [], str(tmp_path / "mask.png")), **options)
    assert "iou_largest" not in broken
    assert broken["error"]


def folder_of(root: Path, *names: str) -> str:
    """Write empty files with some names, and return their folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return str(root)


def refusal(tmp_path: Path, train: LabelledImages, val: LabelledImages, **options: Any) -> str:
    """Return the one line with which a training is refused."""
    with pytest.raises(UserError) as caught:
        classification_task(
            TrainClassifierConfig(model="resnet18_cam", train=train, val=val, output=str(tmp_path / "out"), **options)
        )
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_learnt_is_refused(tmp_path: Path) -> None:
    two = LabelledImages(images=folder_of(tmp_path / "two", "cat/1.jpg", "dog/2.jpg"))
    three = LabelledImages(images=folder_of(tmp_path / "three", "cat/3.jpg", "newt/4.jpg"))
    one = LabelledImages(images=folder_of(tmp_path / "one", "cat/1.jpg"))
    loose = LabelledImages(images=folder_of(tmp_path / "loose", "1.jpg"))
    (tmp_path / "empty").mkdir()
    sets = LabelledImages(positive=one.images, negative=str(tmp_path / "empty"))
    (tmp_path / "labels.csv").write_text("image,label\n9.jpg,cat\n")
    table = LabelledImages(images=two.images, labels=str(tmp_path / "labels.csv"))
    (tmp_path / "bad.csv").write_text("picture,label\n9.jpg,cat\n")
    bad = LabelledImages(images=two.images, labels=str(tmp_path / "bad.csv"))
    assert "'newt'" in refusal(tmp_path, two, three)
    assert "all images show 'cat'" in refusal(tmp_path, one, one)
    assert "lies in no folder of a class" in refusal(tmp_path, loose, two)
    assert "no images in" in refusal(tmp_path, sets, sets)
    assert "names none of the images" in refusal(tmp_path, table, two)
    assert "needs a column 'image'" in refusal(tmp_path, bad, two)
    alike = LabelledImages(images=folder_of(tmp_path / "alike", "c+/1.jpg", "c-/2.jpg"))
    assert "two class names give the same column name" in refusal(tmp_path, alike, alike)
    several = LabelledImages(positive=one.images, negative=two.images)
    assert "--no-multi-label" in refusal(tmp_path, several, several, multi_label=False)
    (tmp_path / "negatives.txt").write_text("negative/cat/1.jpg\n")
    without = several.model_copy(update={"list": str(tmp_path / "negatives.txt")})
    assert "train: no image shows a class" in refusal(tmp_path, without, several)
    assert "val: no image shows a class" in refusal(tmp_path, several, without)


def test_a_classifier_may_have_more_classes_than_a_byte_has_values(tmp_path: Path) -> None:
    many = LabelledImages(images=folder_of(tmp_path / "many", *(f"class{i:03}/1.jpg" for i in range(300))))
    options = {"model": "resnet18_cam", "train": many, "val": many, "output": str(tmp_path / "out")}
    task, _ = classification_task(TrainClassifierConfig(**options))
    assert len(task.classes) == 300


def test_a_class_without_a_training_image_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "classes.yaml").write_text("names: [cat, dog, newt]")
    two = LabelledImages(images=folder_of(tmp_path / "two", "cat/1.jpg", "dog/2.jpg"))
    task, data = classification_task(
        TrainClassifierConfig(
            model="resnet18_cam", train=two, val=two, output=str(tmp_path), classes=str(tmp_path / "classes.yaml")
        )
    )
    assert not task.classifier_input.multi_label
    assert len(task.classes) == 3
    assert data.table["labels"].to_pylist() == [[0], [1]]
    assert "no image shows newt" in capsys.readouterr().out


def test_a_wrong_network_is_refused(shapes: str, tmp_path: Path) -> None:
    result = run_job(
        "train_classifier",
        model="deeplabv3_resnet18",
        output=str(tmp_path / "out"),
        train__positive=f"{shapes}/train/images",
        train__negative=f"{shapes}/val/images",
        val__positive=f"{shapes}/train/images",
        val__negative=f"{shapes}/val/images",
    )
    assert result.returncode == 2
    assert "deeplabv3_resnet18 is made for segmentation; for classification there are alexnet_cam" in result.stderr
