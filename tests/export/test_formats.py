"""Each format is read back by the library that consumes it, or by what its documentation says."""

import json
from pathlib import Path
from xml.etree import ElementTree

import datasets
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

from pipeline.data.classes import Classes, load_classes
from pipeline.errors import UserError
from pipeline.export.config import ExportConfig
from pipeline.export.run import export_run
from tests.support.exported import CLASSES, hole_and_island, ragged, write_detections, write_run

MASKS = {"a.jpg": hole_and_island(), "b/c.png": ragged(1), "d.jpg": ragged(2, (1, 1)), "e.jpg": ragged(3, (33, 5))}
BOXES = {
    "a.jpg": [
        {"class": "car", "score": 0.9, "xmin": 2.0, "ymin": 1.0, "xmax": 12.0, "ymax": 6.0},
        {"class": "road", "score": 0.2, "xmin": 0.0, "ymin": 0.0, "xmax": 20.0, "ymax": 10.0},
    ],
    "none.jpg": [],
}


def export(tmp_path: Path, name: str, **options) -> Path:
    run = write_run(tmp_path, MASKS)
    export_run(ExportConfig(run=run, format=name, output=str(tmp_path / "out"), **options))
    return tmp_path / "out"


def export_boxes(tmp_path: Path, name: str, **options) -> Path:
    run = write_detections(tmp_path, BOXES)
    export_run(ExportConfig(run=run, format=name, output=str(tmp_path / "out"), **options))
    return tmp_path / "out"


def test_png_masks_are_indexed_and_have_the_palette(tmp_path):
    out = export(tmp_path, "png")
    for image_id, labels in MASKS.items():
        mask = Image.open(out / "masks" / Path(image_id).with_suffix(".png"))
        assert mask.mode == "P"
        assert (np.asarray(mask) == labels).all()
        assert (mask.getpalette() or [])[:9] == CLASSES.palette.ravel().tolist()
    assert load_classes(str(out / "classes.yaml")).names == CLASSES.names


def test_cityscapes_masks_have_its_ids(tmp_path):
    run = write_run(tmp_path, MASKS, Classes(names=("Road", "traffic_light", "sky")))
    export_run(ExportConfig(run=run, format="cityscapes", output=str(tmp_path / "out")))
    mask = np.asarray(Image.open(tmp_path / "out/results/b/c.png"))
    assert (mask == np.array([7, 19, 23])[MASKS["b/c.png"]]).all()


@pytest.mark.parametrize(("name", "options"), [("coco", {}), ("coco", {"components": True}), ("coco-polygons", {})])
def test_masks_come_back_from_coco_bit_for_bit(name, options, tmp_path):
    """With pycocotools: holes, islands of a pixel, regions that touch by a corner."""
    coco = COCO(export(tmp_path, name, **options) / "annotations.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES.names)
    for image in coco.loadImgs(coco.getImgIds()):
        expected = MASKS[image["file_name"]]
        assert (image["height"], image["width"]) == expected.shape
        found = np.full(expected.shape, -1)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
            mask = coco.annToMask(annotation).astype(bool)
            assert (found[mask] == -1).all()
            assert mask.sum() == annotation["area"]
            rows, columns = np.nonzero(mask)
            left, top, width, height = annotation["bbox"]
            assert (columns.min(), rows.min()) == (left, top)
            assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (width, height)
            found[mask] = annotation["category_id"] - 1
        assert (found == expected).all()
    assert len(coco.getImgIds()) == len(MASKS)
    objects = [a for a in coco.loadAnns(coco.getAnnIds(imgIds=[1])) if a["category_id"] == 2]
    assert len(objects) == (1 if name == "coco" and not options else 3)  # the car, the island and what touches it


def test_small_regions_can_be_left_out(tmp_path):
    coco = COCO(export(tmp_path, "coco-polygons", min_area=2) / "annotations.json")
    assert min(annotation["area"] for annotation in coco.loadAnns(coco.getAnnIds())) == 2


def test_boxes_in_coco(tmp_path):
    coco = COCO(export_boxes(tmp_path, "coco", min_score=0.5) / "annotations.json")
    (box,) = coco.loadAnns(coco.getAnnIds())
    assert (box["bbox"], box["category_id"], box["area"]) == ([2.0, 1.0, 10.0, 5.0], 2, 50.0)
    assert len(coco.getImgIds()) == 2  # one of them shows nothing


def test_yolo_polygons_and_boxes(tmp_path):
    out = export(tmp_path / "masks", "yolo", copy_images=True)
    settings = yaml.safe_load((out / "data.yaml").read_text())
    assert settings["names"] == dict(enumerate(CLASSES.names))
    assert (out / "images/b/c.png").read_bytes() == (tmp_path / "masks/images/1.jpg").read_bytes()
    labels = MASKS["a.jpg"]
    found = np.full(labels.shape, -1)
    for line in (out / "labels/a.txt").read_text().splitlines():
        label, *numbers = line.split()
        corners = np.array(numbers, float).reshape(-1, 2) * labels.shape[::-1]
        found[inside(corners, labels.shape)] = int(label)
    assert (found == labels).all()
    boxes = (export_boxes(tmp_path / "boxes", "yolo") / "labels/a.txt").read_text().splitlines()
    assert boxes[0].split() == ["1", "0.350000", "0.350000", "0.500000", "0.500000"]
    assert (tmp_path / "boxes/out/labels/none.txt").read_text() == ""


def inside(corners: NDArray, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels whose centres are in a polygon, by the rule of odd and even crossings."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    odd = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 != y1:
            odd ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return odd


def test_label_studio_brushes(tmp_path):
    """Decoded by the rules of Label Studio's own decoder: a stream of bits with runs of RGBA bytes."""
    out = export(tmp_path, "label-studio", image_prefix="https://images.example.org/")
    tasks = {task["data"]["image_id"]: task for task in json.loads((out / "tasks-00000.json").read_text())}
    assert tasks["b/c.png"]["data"]["image"] == "https://images.example.org/b/c.png"
    interface = ElementTree.parse(out / "interface.xml").getroot()
    names = [label.get("value") for label in interface.iter("Label")]
    for image_id, expected in MASKS.items():
        found = np.full(expected.shape, -1)
        for result in tasks[image_id]["predictions"][0]["result"]:
            assert (result["original_height"], result["original_width"]) == expected.shape
            assert (result["from_name"], result["to_name"]) == ("label", interface[0].get("name"))
            mask = decoded_brush(result["value"]["rle"]).reshape(*expected.shape, 4)
            assert (mask == mask[..., :1]).all()
            found[mask[..., 3] == 255] = names.index(result["value"]["brushlabels"][0])
        assert (found == expected).all()


def decoded_brush(rle: list[int]) -> NDArray[np.uint8]:
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    out = np.zeros(count, np.uint8)
    i = 0
    while i < count:
        is_run = read(1)
        end = i + 1 + read(sizes[read(2)])
        while i < end:
            stop = end if is_run else i + 1
            out[i:stop] = read(word)
            i = stop
    return out


def test_label_studio_rectangles_are_in_percent(tmp_path):
    (first, second) = json.loads((export_boxes(tmp_path, "label-studio") / "tasks-00000.json").read_text())
    value = first["predictions"][0]["result"][0]["value"]
    assert [value[name] for name in ("x", "y", "width", "height")] == pytest.approx([10, 10, 50, 50])
    assert value["rectanglelabels"] == ["car"]
    assert second["predictions"][0]["result"] == []


def test_cvat_masks_and_boxes(tmp_path):
    root = ElementTree.parse(export(tmp_path / "masks", "cvat", components=True) / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [label.findtext("name") for label in root.iter("label")] == list(CLASSES.names)
    for image in root.iter("image"):
        expected = MASKS[image.attrib["name"]]
        assert (int(image.attrib["height"]), int(image.attrib["width"])) == expected.shape
        found = np.full(expected.shape, -1)
        for mask in image:
            top, left, height, width = (int(mask.attrib[name]) for name in ("top", "left", "height", "width"))
            runs = list(map(int, mask.attrib["rle"].split(",")))
            pixels = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width).astype(bool)
            found[top : top + height, left : left + width][pixels] = CLASSES.names.index(mask.get("label"))
        assert (found == expected).all()
    root = ElementTree.parse(export_boxes(tmp_path / "boxes", "cvat") / "annotations.xml").getroot()
    box = next(root.iter("box"))
    assert [float(box.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr")] == [2, 1, 12, 6]
    assert [image.get("name") for image in root.iter("image")] == list(BOXES)


def test_fiftyone_folders(tmp_path):
    out = export(tmp_path / "masks", "fiftyone")
    targets = json.loads((out / "mask_targets.json").read_text())
    assert targets == {str(k): name for k, name in enumerate(CLASSES.names, start=1)}
    places = json.loads((out / "data.json").read_text())
    for image_id, labels in MASKS.items():
        stem = image_id.rpartition(".")[0]
        assert (np.asarray(Image.open(out / f"labels/{stem}.png")) == labels + 1).all()
        assert Image.open(places[stem]).size == labels.shape[::-1]
    found = json.loads((export_boxes(tmp_path / "boxes", "fiftyone") / "labels.json").read_text())
    assert found["classes"] == list(CLASSES.names)
    assert found["labels"]["a"][0]["bounding_box"] == pytest.approx([0.1, 0.1, 0.5, 0.5])
    assert found["labels"]["none"] == []


def test_hugging_face_loads_masks_as_pictures(tmp_path):
    out = export(tmp_path, "huggingface", copy_images=True)
    rows = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.features["classes"].feature.names == list(CLASSES.names)
    assert rows["image_id"][:] == list(MASKS)
    for row in rows:
        labels = MASKS[row["image_id"]]
        assert (np.asarray(row["mask"]) == labels).all()
        assert row["image"].size == labels.shape[::-1]
        assert row["classes"] == np.unique(labels).tolist()


def test_hugging_face_loads_boxes(tmp_path):
    out = export_boxes(tmp_path, "huggingface")
    rows = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows[0]["objects"][0]["bbox"] == [2, 1, 10, 5]
    assert rows[0]["objects"][0]["category"] == 1
    assert rows[1]["objects"] == []


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        (
            "png",
            Classes(names=tuple(f"c{k}" for k in range(257)), ignore_index=-1),
            "--format png holds at most 256 classes",
        ),
        (
            "fiftyone",
            Classes(names=tuple(f"c{k}" for k in range(256)), ignore_index=-1),
            "--format fiftyone holds at most 255 classes",
        ),
        ("cityscapes", CLASSES, "the classes sky & <co> have no Cityscapes id"),
    ],
)
def test_a_format_that_cannot_hold_the_classes_is_refused(name, classes, message, tmp_path):
    run = write_run(tmp_path, MASKS, classes)
    with pytest.raises(UserError, match=message):
        export_run(ExportConfig(run=run, format=name, output=str(tmp_path / "out")))


def test_many_classes_fit_into_coco(tmp_path):
    classes = Classes(names=tuple(f"c{k}" for k in range(300)), ignore_index=-1)
    labels = np.arange(300, dtype=np.int32).reshape(15, 20)
    run = write_run(tmp_path, {"a.jpg": labels}, classes)
    export_run(ExportConfig(run=run, format="coco", output=str(tmp_path / "out")))
    coco = COCO(tmp_path / "out" / "annotations.json")
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert (coco.annToMask(annotation).astype(bool) == (labels == annotation["category_id"] - 1)).all()


def test_polygons_agree_with_a_painter_on_a_plain_rectangle(tmp_path):
    """Pillow fills the same pixels, up to the right and lower border that it includes."""
    labels = np.zeros((12, 12), np.int32)
    labels[3:7, 2:9] = 1
    run = write_run(tmp_path, {"a.jpg": labels})
    export_run(ExportConfig(run=run, format="coco-polygons", output=str(tmp_path / "out")))
    coco = COCO(tmp_path / "out" / "annotations.json")
    (car,) = coco.loadAnns(coco.getAnnIds(catIds=[2]))
    picture = Image.new("1", (12, 12))
    ImageDraw.Draw(picture).polygon(car["segmentation"][0], fill=1)
    assert (np.asarray(picture)[3:7, 2:9]).all()
    assert sorted(zip(car["segmentation"][0][::2], car["segmentation"][0][1::2], strict=True)) == [
        (2, 3),
        (2, 7),
        (9, 3),
        (9, 7),
    ]
