"""A model in Python gives what a bulk run writes for the same picture, bit for bit, from every form of picture."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline
from pipeline import Classifier, Detector, Segmenter, crf, models, storage
from pipeline.bulk.detection.config import DetectConfig
from pipeline.bulk.detection.run import detect
from pipeline.bulk.localization.config import LocalizeConfig
from pipeline.bulk.localization.run import localize
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import segment
from pipeline.bundle import save_bundle
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.data.images import decode_image, decode_mask, from_upright
from pipeline.data.preprocessing import ClassifierInput, DetectorInput
from pipeline.errors import UserError
from tests.support.jobs import REPO
from tests.support.networks import narrow
from tests.support.runs import rows_of

CLASSES = Classes(names=("sky", "road", "car"))
WEAK_CRF: Any = {"crf": True, "crf_params": {"w1": 0.1, "w2": 0.1, "steps": 1}}  # an untrained network is not sure
README = (REPO / "README.md").read_text()
ALONE: Any = {"batch_pixels": 1}  # every image is a batch: in larger ones, the last bit of a float may differ


@pytest.fixture(scope="module")
def segmenter_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    url = str(tmp_path_factory.mktemp("segmenter") / "bundle")
    card = Card(architecture="deeplabv3_resnet18", options={"width": 0.125, "output_stride": 8}, classes=CLASSES)
    save_bundle(url, narrow("deeplabv3_resnet18", 3, output_stride=8), card)
    return url


@pytest.fixture(scope="module")
def classifier_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    url = str(tmp_path_factory.mktemp("classifier") / "bundle")
    card = Card(
        architecture="resnet18_cam",
        options={"width": 0.125},
        classes=CLASSES,
        classifier=ClassifierInput(size=(96, 96), multi_label=False),
    )
    save_bundle(url, narrow("resnet18_cam", 3), card)
    return url


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two shapes, in colour and grey, one of them turned by its EXIF orientation."""
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)

    def scene(height: int, width: int) -> Image.Image:
        coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
        return coarse.resize((width, height), Image.Resampling.BICUBIC)

    exif = Image.Exif()
    exif[0x0112] = 6
    scene(96, 128).save(path / "a.png")
    scene(96, 128).save(path / "b.jpg", quality=90)
    scene(96, 128).convert("L").save(path / "c.png")
    scene(64, 112).save(path / "turned.jpg", exif=exif)
    scene(64, 112).quantize(40).save(path / "palette.png")
    return path


def rows(run: str | None) -> dict[str, dict[str, Any]]:
    assert run is not None
    return {row["image_id"]: row for row in rows_of(run).to_pylist()}


@pytest.mark.parametrize("options", [{}, WEAK_CRF | {"tta": {"flip": True}}], ids=["plain", "crf and flip"])
def test_a_segmentation_is_that_of_a_bulk_run(options, segmenter_bundle, folder, tmp_path, ray_driver):
    config = SegmentConfig(model=segmenter_bundle, images=str(folder), output=str(tmp_path), **ALONE, **options)
    segmenter = Segmenter.from_bundle(segmenter_bundle, **options)
    found = rows(segment(config))
    assert len(found) == 5
    for name, row in found.items():
        result = segmenter(folder / name)
        assert result.mask == row["mask"]["bytes"]
        np.testing.assert_array_equal(result.labels, decode_mask(row["mask"]["bytes"]))
        assert result.labels.shape == (row["height"], row["width"])
        assert [np.float32(result.confidence), np.float32(result.entropy)] == [
            np.float32(row["mean_confidence"]),
            np.float32(row["mean_entropy"]),
        ]
        shares = {n: row[f"px_{n}"] / (row["height"] * row["width"]) for n in CLASSES.names}
        assert result.shares() == pytest.approx(shares)
    assert len(np.unique(np.concatenate([decode_mask(row["mask"]["bytes"]).ravel() for row in found.values()]))) > 1


def test_a_classification_is_that_of_a_bulk_run(classifier_bundle, folder, tmp_path, ray_driver):
    options: dict[str, Any] = {"top": 2, "mask": "threshold", "boxes": {"regions": "all"}}
    config = LocalizeConfig(model=classifier_bundle, images=str(folder), output=str(tmp_path), **ALONE, **options)
    classifier = Classifier.from_bundle(classifier_bundle, **options)
    for name, row in rows(localize(config)).items():
        result = classifier(folder / name)
        assert [np.float32(p) for p in result.probabilities.values()] == [np.float32(p) for p in row["probabilities"]]
        assert list(result.found) == [entry["class"] for entry in row["classes"]]
        assert result.found[0] == row["top_class"]
        for entry in row["classes"]:
            corners = [list(box.values()) for box in entry["boxes"]]
            assert result.boxes[entry["class"]].tolist() == corners
            heatmap = result.maps[entry["class"]]
            assert heatmap.shape == (row["height"], row["width"])
            inside = np.zeros(heatmap.shape, bool)
            for left, top, right, bottom in corners:
                inside[top:bottom, left:right] = True
            assert (inside | (heatmap < 0.2)).all()  # every pixel above the threshold is in a box
        np.testing.assert_array_equal(result.labels, decode_mask(row["mask"]["bytes"]))
        assert result.mask_names == ("background", *CLASSES.names)


def test_a_detection_is_that_of_a_bulk_run(segmenter_bundle, folder, tmp_path, ray_driver):
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": 0.05, "grid": 3, "batch_norm": True}
    card = Card(architecture="yolo_fast", options=options, classes=CLASSES, detector=DetectorInput())
    bundle = str(tmp_path / "bundle")
    save_bundle(bundle, models.configure("yolo_fast", options).build(3), card)
    every: dict[str, Any] = {"min_score": 0.0, "max_detections": 7}  # an untrained network is not sure
    config = DetectConfig(model=bundle, images=str(folder), output=str(tmp_path), **ALONE, **every)
    detector = Detector.from_bundle(bundle, **every)
    found = rows(detect(config))
    assert sum(len(row["detections"]) for row in found.values()) > 5
    for name, row in found.items():
        result = detector(folder / name)
        assert list(result.classes) == [entry["class"] for entry in row["detections"]]
        assert result.scores.tolist() == [entry["score"] for entry in row["detections"]]
        corners = [[entry[key] for key in ("xmin", "ymin", "xmax", "ymax")] for entry in row["detections"]]
        assert result.boxes.tolist() == corners
        assert result.overlay().size == (row["width"], row["height"])
    with pytest.raises(UserError, match="is no detector; use it with segpipe"):
        Detector.from_bundle(segmenter_bundle)


@pytest.mark.parametrize("name", ["a.png", "c.png", "turned.jpg", "palette.png"])
def test_every_form_of_a_picture_gives_the_same(name, segmenter_bundle, folder, monkeypatch):
    segmenter = Segmenter.from_bundle(Path(segmenter_bundle))
    path = folder / name
    storage.write_bytes(f"memory://pictures/{name}", path.read_bytes())
    monkeypatch.chdir(folder)
    expected = segmenter(path)
    for picture in (str(path), name, f"memory://pictures/{name}", path.read_bytes(), Image.open(path)):
        assert segmenter(picture).mask == expected.mask
    pixels, orientation = decode_image(path.read_bytes())
    from_array = segmenter(pixels)
    np.testing.assert_array_equal(from_upright(from_array.labels, orientation), expected.labels)
    np.testing.assert_array_equal(expected.pixels, from_upright(pixels, orientation))


def test_a_grey_array_is_a_grey_picture(segmenter_bundle, folder):
    segmenter = Segmenter.from_bundle(segmenter_bundle)
    grey = np.asarray(Image.open(folder / "c.png"))
    assert grey.ndim == 2
    assert segmenter(grey).mask == segmenter(folder / "c.png").mask


def test_the_lines_of_the_readme_run(segmenter_bundle, folder, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"^```python\n(from pipeline import Segmenter\n.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 5
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    Path("demo/model").symlink_to(segmenter_bundle)
    Path("photo.jpg").symlink_to(folder / "b.jpg")
    exec(compile(code, "README.md", "exec"), {})
    assert Image.open("overlay.png").size == (128, 96)
    assert re.fullmatch(r"\(96, 128\) 0\.\d{3} \('\w+', [\d.]+\)\n", capsys.readouterr().out)


def test_overlays_and_masks_are_pictures(segmenter_bundle, classifier_bundle, folder, tmp_path):
    result = Segmenter.from_bundle(segmenter_bundle)(folder / "turned.jpg")
    assert result.names == CLASSES.names
    size = (112, 64)
    assert result.overlay().size == size
    assert np.array_equal(np.asarray(result.overlay(0)), result.pixels)
    assert np.array_equal(np.asarray(result.overlay(1)), CLASSES.palette[result.labels])
    result.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(decode_mask((tmp_path / "mask.png").read_bytes()), result.labels)
    classifier = Classifier.from_bundle(classifier_bundle, top=3)
    found = classifier(folder / "turned.jpg")
    assert found.overlay().size == found.overlay(found.found[2]).size == size
    nothing = Classifier.from_bundle(classifier_bundle, min_probability=1)(folder / "a.png")
    assert (nothing.found, nothing.boxes) == ((), {})
    assert np.array_equal(np.asarray(nothing.overlay()), nothing.pixels)


def test_threads_stay_as_the_caller_has_set_them(segmenter_bundle):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Segmenter.from_bundle(segmenter_bundle)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("/nowhere/a.png", r"cannot read /nowhere/a.png: it does not exist"),
        (b"", r"the picture: the file is empty"),
        (b"text", r"the picture: not an image"),
        (np.zeros((4, 4, 3)), r"an array float64 \[4, 4, 3\]; expected uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"an array uint8 \[4, 4, 4\]; expected uint8"),
        (Image.new("F", (4, 4)), r"the picture: floating-point pixels"),
    ],
)
def test_a_picture_that_cannot_be_read_is_one_line(picture, message, segmenter_bundle):
    with pytest.raises(UserError, match=f"^{message}"):
        Segmenter.from_bundle(segmenter_bundle)(picture)


def test_wrong_models_and_options_are_one_line(segmenter_bundle, classifier_bundle):
    with pytest.raises(UserError, match="use it with segpipe localize"):
        Segmenter.from_bundle(classifier_bundle)
    with pytest.raises(UserError, match="use it with segpipe segment"):
        Classifier.from_bundle(segmenter_bundle)
    with pytest.raises(
        UserError, match=r"^unknown option since; there are compile, crf, crf_device, crf_mode, crf_params, dtype"
    ):
        Segmenter.from_bundle(segmenter_bundle, since="last")
    with pytest.raises(UserError, match=r"^--crf-mode, --crf-device and --crf-params need --crf"):
        Segmenter.from_bundle(segmenter_bundle, crf_mode="fast")
    with pytest.raises(UserError, match=r"^top: Input should be greater than or equal to 1"):
        Classifier.from_bundle(classifier_bundle, top=0)


def test_the_package_is_imported_on_first_use():
    code = """
import json, sys
import pipeline
heavy = {"numpy", "torch", "ray", "pydantic", "numba"}
light = not heavy & set(sys.modules)
names = dir(pipeline)
pipeline.Segmenter
print(json.dumps([light, names, "torch" in sys.modules, "ray" in sys.modules]))
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True).stdout
    light, names, has_torch, has_ray = json.loads(output)
    assert light
    assert {"Classifier", "Segmenter", "dense_crf", "decode_mask"} <= set(names)
    assert has_torch
    assert not has_ray
    assert pipeline.dense_crf is crf.dense_crf
    assert pipeline.decode_mask is decode_mask
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = pipeline.Nothing
