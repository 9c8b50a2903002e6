"""`segpipe validate --boxes`: each fault of a data set is listed with its place, and none stops the reading."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from pipeline import cluster
from pipeline.errors import UserError
from pipeline.training.detection.inspection import format_box_inspection, inspect_boxes
from pipeline.training.segmentation.config import InspectConfig
from tests.support.drawn_boxes import write_boxed_shapes


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls that would be sent to the cluster are made here."""
    monkeypatch.setattr(cluster, "connect", lambda: None)
    monkeypatch.setattr(cluster, "map_tasks", lambda function, calls, **_: [function(*call) for call in calls])


def config(folder: Path, **changes: Any) -> InspectConfig:
    options = {"images": str(folder / "images"), "boxes": str(folder / "boxes.csv")}
    return InspectConfig.model_validate(options | changes)


def add_rows(folder: Path, *rows: tuple[Any, ...]) -> None:
    with (folder / "boxes.csv").open("a", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Drawn pictures with boxes, without those that show no shape and are not annotated."""
    write_boxed_shapes(tmp_path, count=8, seed=0)
    named = {row["image"] for row in csv.DictReader((tmp_path / "boxes.csv").open())}
    for path in (tmp_path / "images").iterdir():
        if path.name not in named:
            path.unlink()
    return tmp_path


@pytest.mark.parametrize("boxes", ["boxes.csv", "boxes.json", "xml"])
def test_a_sound_data_set_has_no_problems_and_its_boxes_are_counted(shapes, boxes):
    found = inspect_boxes(config(shapes, boxes=str(shapes / boxes)))
    content = json.loads((shapes / "boxes.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    drawn = [names[box["category_id"]] for box in content["annotations"]]
    assert found.problems == []
    assert {name: of_class.boxes for name, of_class in found.classes.items()} == {
        name: drawn.count(name) for name in sorted(set(drawn))
    }
    assert all(sum(of_class.sizes.values()) == of_class.boxes for of_class in found.classes.values())
    assert format_box_inspection(found, show=3).endswith("no problems")


def test_every_fault_is_listed_with_its_place(shapes):
    images = sorted((shapes / "images").iterdir())
    (images[0]).write_bytes(images[0].read_bytes()[:200])
    Image.new("RGB", (50, 40)).save(shapes / "images" / "lonely.png")
    faulty = Image.new("RGB", (50, 40))
    faulty.save(shapes / "images" / "faulty.png")
    add_rows(
        shapes,
        ("faulty.png", "disc", 40, 10, 80, 20),
        ("faulty.png", "disc", 60, 50, 70, 55),
        ("faulty.png", "disc", 30, 20, 10, 5),
        ("faulty.png", "disc", 1, 2, 8, 9),
        ("faulty.png", "disc", 1, 2, 8, 9),
        ("gone.png", "disc", 1, 2, 8, 9),
    )
    found = inspect_boxes(config(shapes))
    kinds = {problem.kind: problem for problem in found.problems}
    assert set(kinds) == {
        "annotation_without_image",
        "box_clipped",
        "box_duplicate",
        "box_outside",
        "box_swapped",
        "image_not_annotated",
        "unreadable_image",
    }
    assert kinds["annotation_without_image"].where == "gone"
    assert kinds["image_not_annotated"].where == "lonely"
    assert kinds["unreadable_image"].where.endswith(images[0].name)
    assert "boxes.csv, row " in kinds["box_outside"].where
    assert "(disc: 60, 50, 71, 56)" in kinds["box_outside"].where
    text = format_box_inspection(found, show=1)
    assert "box_clipped: 1\n" in text
    assert "1 unreadable_image" in text.splitlines()[-1]


def test_boxes_of_unknown_classes_are_problems_and_others_still_count(shapes):
    (shapes / "classes.yaml").write_text("names: [disc, square]\n")
    found = inspect_boxes(config(shapes, classes=str(shapes / "classes.yaml")))
    assert {problem.kind for problem in found.problems} == {"class_unknown"}
    assert all("'triangle' is not among the classes" in problem.what for problem in found.problems)
    assert set(found.classes) == {"disc", "square"}
    assert found.classes["disc"].boxes


def test_report_and_preview_are_written(shapes, tmp_path):
    found = inspect_boxes(config(shapes, report=str(tmp_path / "r.json"), preview=str(tmp_path / "p.png")))
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["images"] == found.images == len(list((shapes / "images").iterdir()))
    with Image.open(tmp_path / "p.png") as sheet:
        colours = sheet.convert("RGB").getcolors(1 << 24)
    assert colours
    assert len(colours) > 10


def test_listed_images_that_are_missing_are_problems(shapes, tmp_path):
    keys = sorted(path.stem for path in (shapes / "images").iterdir())
    (tmp_path / "list.txt").write_text(f"{keys[1]}\nnowhere\n")
    found = inspect_boxes(config(shapes, list=str(tmp_path / "list.txt")))
    assert [(problem.kind, problem.where) for problem in found.problems] == [("listed_image_missing", "nowhere")]
    assert found.images == 1


def test_a_data_set_without_any_readable_image_cannot_be_previewed(shapes, tmp_path):
    for path in (shapes / "images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="--preview: no image can be read"):
        inspect_boxes(config(shapes, preview=str(tmp_path / "p.png")))
    problems = inspect_boxes(config(shapes)).problems
    assert [problem.kind for problem in problems] == ["unreadable_image"] * len(list((shapes / "images").iterdir()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": "/masks"}, "either --labels or --boxes"),
        ({"boxes": None}, "either --labels or --boxes"),
        ({"boxes": None, "labels": "/masks"}, "--labels needs --classes"),
        ({"recipe": "pspnet"}, "--recipe is for the crops of label maps"),
    ],
)
def test_options_that_exclude_each_other(shapes, changes, message):
    with pytest.raises(ValidationError, match=message):
        config(shapes, **changes)
