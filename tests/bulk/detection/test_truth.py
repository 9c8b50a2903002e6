"""The true boxes of a detection run: what is left out, and what is said about it."""

from pathlib import Path

import pytest

from pipeline.bulk.detection.truth import boxes_from_json, in_image, truth_of_images
from pipeline.data.box_annotations import ObjectBox
from pipeline.data.classes import Classes
from pipeline.errors import UserError

CLASSES = Classes(names=("cat", "dog"))


def texts(folder: Path, table: str, *ids: str) -> list[str | None]:
    (folder / "boxes.csv").write_text("image,label,xmin,ymin,xmax,ymax,difficult\n" + table)
    return [text for some in truth_of_images(str(folder / "boxes.csv"), CLASSES, [list(ids)]) for text in some]


def test_an_image_that_is_not_named_is_not_scored_and_one_without_boxes_is(tmp_path: Path) -> None:
    found = texts(tmp_path, "a.jpg,cat,1,2,10,20,1\nb.jpg,,,,,,\n", "a.jpg", "b.jpg", "c.jpg")
    assert found[2] is None
    assert found[1] is not None
    assert boxes_from_json(found[1]) == []
    assert found[0] is not None
    (box,) = boxes_from_json(found[0])
    assert (box.label, box.corners, box.difficult, box.crowd) == ("cat", (1, 2, 11, 21), True, False)


def test_what_is_left_out_is_one_line_that_names_file_and_box(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = (
        "a.jpg,cat,1,2,10,20,0\na.jpg,cat,1,2,10,20,0\na.jpg,owl,1,2,3,4,0\na.jpg,dog,9,2,3,8,0\nz.jpg,dog,1,2,3,4,0\n"
    )
    (text,) = texts(tmp_path, table, "a.jpg")
    assert text is not None
    assert [box.label for box in in_image(boxes_from_json(text), (50, 50)).boxes] == ["cat", "dog"]
    lines = capsys.readouterr().out.splitlines()
    assert all("boxes.csv" in line for line in lines)
    assert any("does not know are left out: 'owl'" in line and "row 2" in line for line in lines)
    assert any("there twice" in line and "row 1" in line and "1, 2, 11, 21" in line for line in lines)
    assert any("swapped corners" in line and "row 3" in line for line in lines)
    assert any("1 of the 2 images that it names are not in this run, as 'z'" in line for line in lines)


def test_truth_of_other_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"names none of the images; the first image is 'b.jpg', the first named 'a'"):
        texts(tmp_path, "a.jpg,cat,1,2,10,20,0\n", "b.jpg")


def test_boxes_are_clipped_to_the_image_and_those_outside_are_left_out_with_a_sentence() -> None:
    boxes = [
        ObjectBox("cat", -5, 10, 30, 40, number=1),
        ObjectBox("dog", 200, 10, 230, 40, number=2),
        ObjectBox("dog", 10, 10, 20, 20, number=3),
    ]
    found = in_image(boxes, (100, 150))
    assert [box.corners for box in found.boxes] == [(0, 10, 30, 40), (10, 10, 20, 20)]
    assert found.problems == 2
    assert found.error is not None
    assert "number 1 (cat: -5, 10, 30, 40)" in found.error
    assert "150x100" in found.error
    assert in_image(boxes[2:], (100, 150)).error is None
