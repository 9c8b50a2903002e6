"""Validation of drawn label maps whose values the class file does not describe, and the lines that describe them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.commands import validate
from pipeline.data.classes import Classes
from pipeline.data.datasets import pair
from pipeline.training.problems import Problem
from pipeline.training.segmentation.doubts import Doubt, find_doubts, format_doubt
from pipeline.training.segmentation.inspection import Inspection, format_inspection, inspect_chunk

ABC = ("a", "b", "c")


def doubts(folder: Path, classes: Classes, *maps: list[int]) -> list[Doubt]:
    """Draw label maps with a column of each value, inspect them, and compare them with the classes."""
    for name in ("images", "labels"):
        (folder / name).mkdir(exist_ok=True)
    for i, values in enumerate(maps):
        label = np.repeat(np.array([values], np.uint8), 4, axis=0)
        Image.fromarray(label).save(folder / "labels" / f"{i}.png")
        Image.new("RGB", (len(values), 4)).save(folder / "images" / f"{i}.png")
    return inspected(folder, classes)


def inspected(folder: Path, classes: Classes) -> list[Doubt]:
    found = inspect_chunk(pair(f"{folder}/images", f"{folder}/labels").samples, classes)
    return find_doubts(classes, pixels=found.counts[:, :-1].sum(axis=0).tolist(), values=found.values)


def test_binary_masks_of_0_and_255_under_ignore_index_255(tmp_path):
    """The class file with the suggested line describes them, which is found by inspecting them again."""
    (doubt,) = doubts(tmp_path, Classes(names=("bg", "fg")), [0, 0, 0, 255], [0, 0, 0, 0])
    assert doubt.kind == "one_class"
    assert "no class but 'bg'" in doubt.what
    assert "255 (12.5% of the pixels, the ignore index)" in doubt.what
    assert doubt.remedy == "values: {0: bg, 255: fg}"
    assert format_doubt(doubt).endswith("write this into the class file:\n  values: {0: bg, 255: fg}")
    described = Classes(names=("bg", "fg"), **yaml.safe_load(doubt.remedy))
    found = inspect_chunk(pair(f"{tmp_path}/images", f"{tmp_path}/labels").samples, described)
    assert found.counts.tolist() == [[12, 4, 0], [16, 0, 0]]
    assert not found.problems
    assert inspected(tmp_path, described) == []


def test_binary_masks_for_a_single_class(tmp_path):
    (doubt,) = doubts(tmp_path, Classes(names=("fg",)), [0, 255])
    assert doubt.kind == "one_class"
    assert doubt.remedy == "names: [background, fg]\nvalues: {0: background, 255: fg}"
    assert inspected(tmp_path, Classes(**yaml.safe_load(doubt.remedy))) == []


@pytest.mark.parametrize(
    ("stored", "kind", "remedy"),
    [
        ([1, 2, 3], "class_never_occurs", "values: {1: a, 2: b, 3: c}"),
        ([1, 2, 3, 255], "class_never_occurs", "values: {1: a, 2: b, 3: c, 255: ignore}"),
        ([0, 1, 2, 3], "one_value_more", "values: {0: ignore, 1: a, 2: b, 3: c}"),
        ([0, 1, 2, 3, 255], "one_value_more", "values: {0: ignore, 1: a, 2: b, 3: c, 255: ignore}"),
        ([0, 127, 254], "one_class", "values: {0: a, 127: b, 254: c}"),
        ([0, 1, 255], "class_never_occurs", "values: {0: a, 1: b, 255: c}"),
        ([0, 1, 9, 255], "class_never_occurs", "values: {0: a, 1: b, 9: c, 255: ignore}"),
        ([0, 1], "class_never_occurs", None),
        ([0, 1, 7, 8, 9], "class_never_occurs", None),
        ([255], "one_class", None),
    ],
)
def test_the_suggested_values_let_every_class_occur(tmp_path, stored, kind, remedy):
    (doubt,) = doubts(tmp_path, Classes(names=ABC), stored)
    assert (doubt.kind, doubt.remedy) == (kind, remedy)
    if remedy is not None:
        assert inspected(tmp_path, Classes(names=ABC, **yaml.safe_load(remedy))) == []


def test_a_class_file_with_values_keeps_what_fits(tmp_path):
    classes = Classes(names=ABC, values={7: "c", 11: "a", 23: "b", 0: "ignore"})
    (doubt,) = doubts(tmp_path, classes, [0, 7, 11], [11, 30])
    assert doubt.remedy == "values: {0: ignore, 7: c, 11: a, 30: b}"
    assert inspected(tmp_path, Classes(names=ABC, **yaml.safe_load(doubt.remedy))) == []


def test_names_that_yaml_would_misread_are_quoted(tmp_path):
    (doubt,) = doubts(tmp_path, Classes(names=("no", "yes, really")), [0, 255])
    assert doubt.remedy is not None
    assert yaml.safe_load(doubt.remedy) == {"values": {0: "no", 255: "yes, really"}}


@pytest.mark.parametrize("stored", [[0, 1, 2], [0, 1, 2, 255]])
def test_label_maps_with_every_class_raise_no_doubt(tmp_path, stored):
    assert doubts(tmp_path, Classes(names=ABC), stored) == []


def test_colours_are_not_taken_for_values(tmp_path):
    """Of three colours, two are in the class file; no line of values is suggested."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    label = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [9, 9, 9]]], np.uint8))
    label.save(tmp_path / "labels" / "x.png")
    label.save(tmp_path / "images" / "x.png")
    classes = Classes(names=ABC, colours=((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    (doubt,) = inspected(tmp_path, classes)
    assert (doubt.kind, doubt.remedy) == ("class_never_occurs", None)
    assert "#090909 (33.3% of the pixels)" in doubt.what


def test_values_are_added_up_over_samples(tmp_path):
    doubts(tmp_path, Classes(names=ABC), [0, 0, 9], [9, 1])
    found = inspect_chunk(pair(f"{tmp_path}/images", f"{tmp_path}/labels").samples, Classes(names=ABC))
    assert found.values == Counter({0: 8, 9: 8, 1: 4})


def test_values_outside_the_classes_are_listed_by_value_with_their_files(tmp_path):
    doubts(tmp_path, Classes(names=ABC), *[[0, 1, 7]] * 3, [0, 9, 7], [0, 1, 2])
    problems = inspect_chunk(pair(f"{tmp_path}/images", f"{tmp_path}/labels").samples, Classes(names=ABC)).problems
    found = Inspection(samples=5, pixels=[20, 16, 4], present=[5, 4, 1], problems=problems)
    lines = format_inspection(found, Classes(names=ABC), show=20).splitlines()
    start = lines.index("value_outside_classes: 4")
    assert lines[start + 1 : start + 3] == [
        f"  value 7 in 4 files, for example {tmp_path}/labels/0.png",
        f"  value 9 in {tmp_path}/labels/3.png",
    ]
    assert "  … and 1 more" in format_inspection(found, Classes(names=ABC), show=1).splitlines()
    assert problems[3].what == "7 (4 pixels), 9 (4 pixels)"


@pytest.mark.parametrize("has_crops", [True, False])
def test_the_command_names_the_files_that_it_wrote(tmp_path, monkeypatch, capsys, has_crops):
    problems = [] if has_crops else [Problem("no_preview", "x", "nothing to draw")]
    found = Inspection(samples=1, pixels=[5], present=[1], problems=problems)
    monkeypatch.setattr("pipeline.training.segmentation.inspection.inspect", lambda _: (found, Classes(names=("a",))))
    places = ["--images", "i", "--labels", "l", "--classes", "c"]
    validate.main([*places, "--preview", f"{tmp_path}/crops.png", "--report", f"{tmp_path}/found.json"])
    lines = capsys.readouterr().out.splitlines()
    assert (f"preview: {tmp_path}/crops.png" in lines) == has_crops
    assert f"report: {tmp_path}/found.json" in lines
    assert lines[-1].startswith("1 pairs of image and label")


def test_warnings_are_printed_and_counted():
    doubt = Doubt("class_never_occurs", "no label map holds 'c'.", "values: {0: a, 1: b, 255: c}")
    found = Inspection(samples=3, pixels=[5, 5, 0], present=[3, 3, 0], warnings=[doubt])
    lines = format_inspection(found, Classes(names=ABC), show=20).splitlines()
    assert lines[-1] == "3 pairs of image and label: no problems, 1 warning"
    assert "  values: {0: a, 1: b, 255: c}" in lines
