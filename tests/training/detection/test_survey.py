"""What is known of the images before training: boxes, proposals, problems; and the examples drawn from it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import cluster, storage
from pipeline.data.images import decode_image
from pipeline.data.preprocessing import ProposalOptions
from pipeline.errors import UserError
from pipeline.training.detection.annotated_images import (
    AnnotatedSplit,
    class_names,
    read_annotated,
    refuse_unknown,
)
from pipeline.training.detection.config import AnnotatedImages, TrainDetectorConfig
from pipeline.training.detection.examples import DrawBoxes
from pipeline.training.detection.survey import format_problems, read_survey, survey, surveyed
from pipeline.training.detection.task import detection_task
from tests.support.drawn_boxes import write_boxed_shapes

PROPOSALS = ProposalOptions(limit=50)


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    write_boxed_shapes(tmp_path / "shapes", count=24, seed=0)
    return tmp_path / "shapes"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls that `map_tasks` would send to the cluster; they are made here."""
    made: list[Any] = []

    def map_here(function: Any, calls: list[Any], **_: Any) -> Any:
        made.extend(calls)
        return [function(*call) for call in calls]

    monkeypatch.setattr(cluster, "map_tasks", map_here)
    return made


def read(shapes: Path, boxes: str = "boxes.csv", **options: str) -> AnnotatedSplit:
    return read_annotated(
        AnnotatedImages(images=str(shapes / "images"), boxes=str(shapes / boxes), **options), name="train"
    )


def look(split: AnnotatedSplit, output: Path, proposals: ProposalOptions | None = None) -> pa.Table:
    return survey(split, names=("disc", "square", "triangle"), output=str(output), proposals=proposals)


@pytest.mark.parametrize("boxes", ["boxes.json", "xml"])
def test_the_format_of_the_boxes_makes_no_difference(
    boxes: str, shapes: Path, tmp_path: Path, calls: list[Any]
) -> None:
    table = look(read(shapes), tmp_path / "csv")
    other = look(read(shapes, boxes), tmp_path / "other")
    assert table.num_rows > 10
    assert other.drop_columns("problem_boxes").equals(table.drop_columns("problem_boxes"))
    assert read_survey(str(tmp_path / "csv"), "train").equals(table)


def test_only_missing_and_outdated_parts_are_made_again(shapes: Path, tmp_path: Path, calls: list[Any]) -> None:
    split = read(shapes)
    table = look(split, tmp_path / "out", PROPOSALS)
    assert len(calls) == 2
    calls.clear()
    assert look(split, tmp_path / "out", PROPOSALS).equals(table)
    assert calls == []
    (tmp_path / "out" / "survey" / "train" / "part-00001.parquet").unlink()
    assert look(split, tmp_path / "out", PROPOSALS).equals(table)
    assert [call[0][-18:] for call in calls] == ["part-00001.parquet"]
    calls.clear()
    fewer = look(split, tmp_path / "out", ProposalOptions(limit=5))
    assert len(calls) == 2
    assert max(len(surveyed(fewer, i).proposals) for i in range(fewer.num_rows)) == 5
    one = AnnotatedSplit("train", split.images[:3], split.annotations)
    assert look(one, tmp_path / "out", PROPOSALS).num_rows == 3
    assert read_survey(str(tmp_path / "out"), "train").num_rows == 3


def test_problems_are_counted_and_the_first_is_named(
    shapes: Path, tmp_path: Path, calls: list[Any], capsys: pytest.CaptureFixture
) -> None:
    with (shapes / "boxes.csv").open("a") as file:
        first, *_ = sorted(path.name for path in (shapes / "images").iterdir())
        for row in (
            "disc,-9,3,50,40",  # clipped
            "disc,200,3,250,40",  # outside
            "square,50,40,30,20",  # swapped
            "square,30,20,50,40",  # the same box again
        ):
            file.write(f"{first},{row}\n")
        file.write("missing.png,disc,1,2,3,4\n")
        file.write("broken.png,disc,1,2,3,4\n")
    (shapes / "images" / "broken.png").write_bytes(b"no image")
    (shapes / "images" / "unnamed.png").write_bytes(b"no image either")
    split = read(shapes)
    text = capsys.readouterr().out
    assert "names 1 images that are not there, the first 'missing'" in text
    assert "images are not annotated and are left out" in text
    table = look(split, tmp_path / "out")
    lines = "\n".join(format_problems(split, table))
    for expected in ("1 boxes reach out of", "1 boxes lie outside", "1 boxes have swapped", "1 boxes are there twice"):
        assert expected in lines
    assert "boxes.csv, row " in lines
    (error,) = [error for error in table["error"].to_pylist() if error is not None]
    assert "broken.png" in error
    place = [image.key for image in split.images].index(first.removesuffix(".png"))
    assert [0.0, 3.0, 51.0, 41.0] in surveyed(table, place).boxes.tolist()

    config = configuration(shapes)
    drawn = DrawBoxes(config)(table, 0, range(table.num_rows))
    assert any("broken.png" in line for line in drawn.skipped)
    assert "broken" not in drawn.keys
    assert len(drawn.keys) == table.num_rows


def configuration(shapes: Path, **changes: Any) -> TrainDetectorConfig:
    split = {"images": str(shapes / "images"), "boxes": str(shapes / "boxes.csv")}
    options = {"model": "yolo_fast", "train": split, "val": split, "output": "/out"}
    return TrainDetectorConfig.model_validate(options | changes)


def test_examples_depend_on_seed_epoch_and_position_alone(shapes: Path, tmp_path: Path, calls: list[Any]) -> None:
    config = configuration(shapes, augmentation={"jitter": 0.2, "exposure": 1.5})
    table = look(read(shapes), tmp_path / "out", PROPOSALS)
    draw = DrawBoxes(config)
    together, alone = draw(table, 3, range(6)), draw(table, 3, range(4, 5))
    assert np.array_equal(together.pixels[4], alone.pixels[0])
    for mine, other in zip(together.labels[4], alone.labels[0], strict=True):
        assert np.array_equal(mine, other)
    assert together.labels[4].seed.tolist() == [0, 3, 4]
    assert len({image.shape for image in together.pixels}) > 1
    assert not np.array_equal(draw(table, 4, range(6)).keys, together.keys)


def test_difficult_objects_and_crowds_are_not_learnt(shapes: Path, tmp_path: Path, calls: list[Any]) -> None:
    content = json.loads((shapes / "boxes.json").read_text())
    for annotation in content["annotations"][::2]:
        annotation["iscrowd"] = 1
    (shapes / "boxes.json").write_text(json.dumps(content))
    table = look(read(shapes, "boxes.json"), tmp_path / "out")
    drawn = DrawBoxes(configuration(shapes))(table, 0, range(table.num_rows))
    crowds = sum(a["iscrowd"] for a in content["annotations"])
    assert sum(len(own.boxes) for own in drawn.labels) == len(content["annotations"]) - crowds
    assert sum(int(surveyed(table, i).crowd.sum()) for i in range(table.num_rows)) == crowds


def test_boxes_that_share_a_grid_cell_and_the_recall_of_proposals_are_reported(
    shapes: Path, tmp_path: Path, calls: list[Any], capsys: pytest.CaptureFixture
) -> None:
    """`prepare` looks at training and validation images, and draws examples."""
    images = sorted(path.name for path in (shapes / "images").iterdir())[:2]
    rows = [f"{images[0]},disc,10,10,50,50", f"{images[0]},square,12,12,52,52", f"{images[1]},disc,0,0,20,20"]
    (shapes / "boxes.csv").write_text("\n".join(["image,label,xmin,ymin,xmax,ymax", *rows]) + "\n")
    task, data = detection_task(configuration(shapes, output=str(tmp_path / "yolo")))
    assert task.prepare(data).table.num_rows == 2
    text = capsys.readouterr().out
    assert "train: 3 boxes in 2 images, 0 images without a box; 1 boxes lie in a grid cell that another one has" in text
    assert (tmp_path / "yolo" / "preview.png").stat().st_size > 1000
    task, data = detection_task(configuration(shapes, model="fast_rcnn_alexnet", output=str(tmp_path / "fast")))
    data = task.prepare(data)
    assert re.search(r"val: 3 boxes .*; \d+ proposals per image find [\d.]+% at IoU 0.5, ", capsys.readouterr().out)
    assert len(data.draw(data.table, 0, range(1)).labels[0].proposals) > 0


def test_an_image_that_has_changed_since_the_survey_is_left_out(shapes: Path, tmp_path: Path, calls: list[Any]) -> None:
    split = read(shapes)
    table = look(split, tmp_path / "out")
    pixels = decode_image(storage.read_bytes(split.images[0].image)).pixels
    from PIL import Image

    Image.fromarray(pixels[:50]).save(split.images[0].image)
    drawn = DrawBoxes(configuration(shapes))(table, 0, range(table.num_rows))
    assert any("96x50, but it was 96x96 when the run began" in line for line in drawn.skipped)


def test_mistakes_are_refused_in_one_line(shapes: Path) -> None:
    (shapes / "list.txt").write_text("0-00000\nno-such\n")
    (shapes / "empty.csv").write_text("image,label,xmin,ymin,xmax,ymax\n0-00000.png,,,,,\n")
    (shapes / "others.csv").write_text("image,label,xmin,ymin,xmax,ymax\nx.png,disc,1,2,3,4\n")
    split = read(shapes)
    assert class_names(split) == ("disc", "square", "triangle")
    with pytest.raises(
        UserError, match=r"boxes\.csv, row \d+ .*: 'triangle' is not among the classes \(disc, square\)"
    ):
        refuse_unknown(split, ("disc", "square"))
    with pytest.raises(UserError, match="listed images are not there or not annotated, the first 'no-such'"):
        read(shapes, list=str(shapes / "list.txt"))
    with pytest.raises(UserError, match="train: no image has a box"):
        class_names(read(shapes, "empty.csv"))
    with pytest.raises(UserError, match=r"others\.csv names none of the images; the first image is '0-00000'"):
        read(shapes, "others.csv")
    with pytest.raises(ValueError, match="R-CNN computes the crops of one image after the other"):
        configuration(shapes, model="rcnn_resnet50", batch_norm={"mode": "synchronised"}, scaling={"num_workers": 2})
    with pytest.raises(ValueError, match="--compile: detectors cannot be compiled"):
        configuration(shapes, compile=True)
