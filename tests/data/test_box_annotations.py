"""Boxes from Pascal VOC, COCO and tables: one form, and a defined result for whatever is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.box_annotations import BoxAnnotations, ObjectBox, read_boxes, usable_boxes
from pipeline.errors import UserError

VOC = """<annotation><object><name>dog</name><difficult>1</difficult><bndbox><xmin>3</xmin><ymin>5</ymin>
<xmax>10</xmax><ymax>20</ymax></bndbox></object><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin>
<xmax>1</xmax><ymax>2</ymax></bndbox></object></annotation>"""
DOG, CAT = (2, 4, 10, 20), (0, 0, 1, 2)


def coco(**changes: Any) -> str:
    content = {
        "images": [{"id": 7, "file_name": "a/1.jpg"}, {"id": 8, "file_name": "a/2.jpg"}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 18, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [2, 4, 8, 16], "iscrowd": 1},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 2]},
        ],
    }
    return json.dumps(content | changes)


def read(folder: Path, kind: str) -> BoxAnnotations:
    """Write the boxes of two images, the second without any, and read them."""
    if kind == "voc":
        (folder / "a").mkdir()
        (folder / "a" / "1.xml").write_text(VOC)
        (folder / "a" / "2.xml").write_text("<annotation></annotation>")
        return read_boxes(str(folder))
    if kind == "coco":
        (folder / "boxes.json").write_text(coco())
        return read_boxes(str(folder / "boxes.json"))
    rows = [("a/1.jpg", "dog", 2, 4, 9, 19, True), ("a/1.jpg", "cat", 0, 0, 0, 1, False), ("a/2.jpg", *[None] * 6)]
    names = ["image", "label", "xmin", "ymin", "xmax", "ymax", "difficult"]
    pq.write_table(
        pa.table({n: list(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)}), folder / "b.parquet"
    )
    return read_boxes(str(folder / "b.parquet"))


@pytest.mark.parametrize("kind", ["voc", "coco", "table"])
def test_all_formats_give_the_same_exclusive_corners(kind: str, tmp_path: Path) -> None:
    found = read(tmp_path, kind)
    dog, cat = found.by_key["a/1"]
    assert (dog.label, dog.corners) == ("dog", DOG)
    assert (cat.label, cat.corners) == ("cat", CAT)
    assert (dog.difficult, dog.crowd) == (kind != "coco", kind == "coco")
    assert not cat.difficult
    assert not cat.crowd
    assert found.by_key["a/2"] == []
    assert found.find_key("1") == "a/1"
    assert "(dog: 2, 4, 10, 20)" in found.place("a/1", dog)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", "{", "no COCO file"),
        ("a.json", '{"images": []}', "no COCO file .KeyError: 'categories'"),
        ("a.json", coco(images=[{"id": 1, "file_name": "x.jpg"}]), "annotation 1: its image_id 7 is not"),
        ("a.json", coco(categories=[{"id": 18, "name": "dog"}]), "annotation 2: its category_id 1 is not"),
        ("a.json", coco(images=[{"id": i, "file_name": "x.jpg"} for i in (7, 8)]), "two images have the name 'x'"),
        (
            "a.json",
            coco(annotations=[{"id": 5, "image_id": 7, "category_id": 1, "bbox": [1, 2, float("nan"), 4]}]),
            "annotation 5: a box without the four numbers x, y, width, height",
        ),
        ("a.csv", "image,label\n1.jpg,cat\n", "has no column xmin, ymin, xmax, ymax"),
        ("a.csv", "image,label,xmin,ymin,xmax,ymax\n1.jpg,,1,2,3,4\n", "row 0 .counted from 0.: a box without a class"),
        ("a.csv", "image,label,xmin,ymin,xmax,ymax\n1.jpg,cat,1,2,,4\n", "row 0 .counted from 0.: a box without the"),
        ("a.xml", VOC.replace("<ymax>20</ymax>", ""), r"a\.xml, object 1: a box without the four numbers"),
        ("a.xml", VOC.replace("<name>cat</name>", ""), r"a\.xml, object 2: a box without a class"),
        ("a.txt", "nothing", "neither a folder of .xml files, nor"),
    ],
)
def test_what_is_no_box_is_refused_in_a_line_that_names_it(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=expected) as caught:
        read_boxes(str(tmp_path / name) if name.endswith((".csv", ".json")) else str(tmp_path))
    assert "\n" not in str(caught.value)


def test_swapped_corners_are_put_in_order_before_they_are_converted(tmp_path: Path) -> None:
    (tmp_path / "1.xml").write_text(VOC.replace("<xmin>3</xmin>", "<xmin>10</xmin>").replace("<xmax>10<", "<xmax>3<"))
    dog, cat = read_boxes(str(tmp_path)).by_key["1"]
    assert dog.corners == DOG
    assert (dog.swapped, cat.swapped) == (True, False)


def test_an_image_has_the_usable_parts_of_its_boxes() -> None:
    good = ObjectBox("a", 1, 2, 30, 40)
    hardly_out = ObjectBox("a", -1, 0, 50, 101)
    clipped = ObjectBox("b", -5, 10, 60, 20)
    outside, empty = ObjectBox("a", 50, 0, 60, 10), ObjectBox("a", 5, 5, 5, 9)
    swapped = good._replace(label="b", swapped=True)
    boxes = [good, hardly_out, clipped, outside, empty, swapped, good]
    kept, problems = usable_boxes(boxes, height=100, width=50)
    corners = [(box.label, box.corners) for box in kept]
    assert corners == [
        ("a", (1, 2, 30, 40)),
        ("a", (0, 0, 50, 100)),
        ("b", (0, 10, 50, 20)),
        ("b", (1, 2, 30, 40)),
    ]
    expected = [("clipped", clipped), ("outside", outside), ("empty", empty), ("swapped", swapped), ("duplicate", good)]
    assert problems == expected
