"""Label maps from COCO files agree with pycocotools."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from pipeline.commands import load
from pipeline.data.classes import load_classes
from pipeline.data.coco_masks import decode_segmentation
from pipeline.errors import UserError
from pipeline.export.rle import coco_counts

IMAGE = {"id": 7, "file_name": "a/b.jpg", "height": 20, "width": 30}
CATEGORIES = [{"id": 3, "name": "car"}, {"id": 9, "name": "sky"}]
SQUARE = [2, 3, 12, 3, 12, 9, 2, 9]


def write(folder: Path, annotations: list[dict], **changes) -> str:
    rows = [{"id": i, "image_id": 7, "category_id": 3} | row for i, row in enumerate(annotations)]
    content = {"images": [IMAGE], "categories": CATEGORIES, "annotations": rows} | changes
    file = folder / "coco.json"
    file.write_text(json.dumps(content))
    return str(file)


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_are_those_of_pycocotools(seed):
    """Written and read, compressed and not, with a first pixel of both values and long runs."""
    generator = np.random.default_rng(seed)
    coarse = generator.random((6, 9)) < 0.5
    masks = [np.kron(coarse, np.ones((37, 23), bool)), generator.random((17, 29)) < 0.5, np.ones((5, 4), bool)]
    for mask in [*masks, np.zeros((3, 2), bool)]:
        expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert coco_counts(mask) == expected["counts"].decode()
        text = {"size": list(mask.shape), "counts": expected["counts"].decode()}
        assert (decode_segmentation(text, *mask.shape) == mask).all()
    plain = {"size": [2, 3], "counts": [1, 2, 3]}
    assert decode_segmentation(plain, 2, 3).T.ravel().tolist() == [0, 1, 1, 0, 0, 0]


def test_polygons_differ_from_pycocotools_at_the_outline_only():
    """It draws on a grid five times as fine; both agree away from the outline."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        corners = generator.uniform(-5, 65, (7, 2))
        angles = np.arctan2(*(corners - corners.mean(axis=0)).T)
        polygon = corners[np.argsort(angles)].ravel()
        expected = coco.decode(coco.merge(coco.frPyObjects([np.clip(polygon, 0, 60).tolist()], 50, 60))).astype(bool)
        found = decode_segmentation([np.clip(polygon, 0, 60).tolist()], 50, 60)
        assert np.count_nonzero(found != expected) <= 0.03 * max(400, int(np.count_nonzero(expected)))


def test_label_maps_have_the_classes_and_small_objects_on_top(tmp_path):
    small = np.zeros((20, 30), bool)
    small[5, 5] = True
    rle = {"size": [20, 30], "counts": coco_counts(small)}
    file = write(tmp_path, [{"segmentation": rle, "category_id": 9}, {"segmentation": [SQUARE]}])
    load("label-maps").main([file, "--output", str(tmp_path / "out")])
    labels = np.asarray(Image.open(tmp_path / "out/labels/a/b.png"))
    expected = np.zeros((20, 30))
    expected[3:9, 2:12] = 1
    expected[5, 5] = 2
    assert (labels == expected).all()
    assert load_classes(str(tmp_path / "out/classes.yaml")).names == ("background", "car", "sky")


def test_unlabelled_pixels_can_be_ignored(tmp_path):
    file = write(tmp_path, [{"segmentation": [SQUARE]}])
    load("label-maps").main([file, "--output", str(tmp_path / "out"), "--unlabelled", "ignore"])
    labels = np.asarray(Image.open(tmp_path / "out/labels/a/b.png"))
    classes = load_classes(str(tmp_path / "out/classes.yaml"))
    assert classes.names == ("car", "sky")
    assert set(np.unique(classes.index(labels.astype(np.int32)))) == {0, classes.ignore_index}


@pytest.mark.parametrize(
    ("annotations", "changes", "message"),
    [
        ([{"segmentation": [[1, 2, 3, 4]]}], {}, "annotation 0: its segmentation is neither"),
        ([{"segmentation": [["x"] * 6]}], {}, "annotation 0: its segmentation is neither"),
        ([{"segmentation": [[1, 2, float("inf"), 4, 5, 6]]}], {}, "annotation 0: its segmentation is neither"),
        ([{}], {}, "annotation 0: its segmentation is neither"),
        ([{"segmentation": {"size": [20, 30], "counts": [5]}}], {}, "the run lengths sum up to 5"),
        ([{"segmentation": {"size": [2, 3], "counts": [6]}}], {}, r"its size is \[2, 3\]"),
        ([{"segmentation": [SQUARE], "image_id": 8}], {}, "annotation 0: its image or category is not in the file"),
        ([], {"images": [IMAGE, IMAGE | {"id": 8, "file_name": "a/b.png"}]}, "would have the same label map"),
        ([], {"images": [IMAGE | {"height": 0}]}, "30x0 is no size of an image"),
        ([], {"images": []}, "holds no image"),
        ([], {"images": 5}, "no COCO file"),
        ([], {"categories": [{"id": i, "name": f"c{i}"} for i in range(255)]}, "at most 255 classes"),
    ],
)
def test_mistakes_are_one_line(annotations, changes, message, tmp_path):
    file = write(tmp_path, annotations, **changes)
    with pytest.raises(UserError, match=message) as found:
        load("label-maps").main([file, "--output", str(tmp_path / "out")])
    assert "\n" not in str(found.value)


def test_names_of_images_do_not_lead_out_of_the_output(tmp_path):
    file = write(tmp_path, [], images=[IMAGE | {"file_name": "../../up.jpg"}])
    load("label-maps").main([file, "--output", str(tmp_path / "deep/out")])
    assert [path.name for path in tmp_path.rglob("*.png")] == ["up.png"]
    assert list((tmp_path / "deep/out/labels").rglob("*.png"))
