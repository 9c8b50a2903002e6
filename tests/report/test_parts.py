"""The parts of pages: charts, tables, values and thumbnails."""

import io
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.classes import Classes
from pipeline.report.blocks import MOST_ROWS, Chart, Line, Page, Section, Table, flattened
from pipeline.report.render import format_value, render
from pipeline.report.svg import HEIGHT, MOST_POINTS, WIDTH, draw_chart, nice_ticks
from pipeline.report.thumbnails import SIDE, heat, painted, photograph
from pipeline.training.display import format_training
from pipeline.training.report import curve_charts
from pipeline.training.segmentation.config import Split, TrainConfig
from pipeline.training.task import Measures

POINTS = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=40)


@given(POINTS, st.booleans())
@example([(0.0, 5e-324)], False)
@example([(1.1754943508222875e-38, 0.0), (1.175494351e-38, 0.0)], False)
def test_a_chart_stays_inside_its_drawing(points, log):
    drawing = draw_chart(Chart("t", [Line("a", points)], "x", log=log))
    for path in drawing.paths:
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in path.points)
    assert all(0 <= tick.place <= WIDTH for tick in drawing.x_ticks)


def test_undefined_points_and_many_points_are_left_out():
    values = [(float(i), math.nan if i % 2 else 1.0) for i in range(2000)]
    (path,) = draw_chart(Chart("t", [Line("a", values)], "x")).paths
    assert len(path.points) == MOST_POINTS
    assert (path.points[0][0], path.points[-1][0]) == (46.0, pytest.approx(410, abs=0.5))


@given(st.floats(0, 1e5), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low, span):
    ticks = nice_ticks(low, low + span)
    assert 1 <= len(ticks) <= 7
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in ticks)


def test_ticks_of_small_numbers_are_round():
    assert nice_ticks(0, 1e-13) == [0, 2e-14, 4e-14, 6e-14, 8e-14, 1e-13]
    assert nice_ticks(0, 1.2) == [0, 0.25, 0.5, 0.75, 1.0]


@given(st.integers(0, 1000), st.integers(1, 10_000))
def test_ticks_of_what_is_counted_are_whole_numbers(low, span):
    ticks = nice_ticks(low, low + span, whole=True)
    assert 1 <= len(ticks) <= 7
    assert all(tick == round(tick) for tick in ticks)
    drawing = draw_chart(Chart("t", [Line("a", [(low, 1.0), (low + span, 1.0)])], "epoch", whole=True))
    assert len(drawing.x_ticks) == len(ticks)


def test_values_for_people():
    assert [format_value(value) for value in (None, math.nan, 0.12345, 1234, True, "a")] == [
        "–",
        "–",
        "0.1235",
        "1,234",
        "yes",
        "a",
    ]
    assert len(format_value("x" * 1000)) == 300


def test_a_long_table_is_cut_and_says_so():
    page = render(Page("p", "k", sections=[Section("s", [Table(["n"], [[i] for i in range(5000)])])])).decode()
    assert page.count("<tr>") == MOST_ROWS + 1
    assert f"the first {MOST_ROWS} rows" in page


def test_a_name_that_is_not_utf_8_is_shown():
    assert "bad\\udcff.png" in render(Page("bad\udcff.png", "k")).decode()


def test_options_by_their_names():
    config = {"a": {"b": 1, "c": None, "d": {}}, "e": [1, 2], "f": False}
    assert flattened(config) == {"a.b": 1, "e": "1, 2", "f": False}


@pytest.mark.parametrize("classes", [3, 255, 256, 400])
def test_painted_labels_have_the_exact_colours_of_the_classes(classes):
    palette = Classes(names=tuple(f"c{k}" for k in range(classes)), ignore_index=9999).palette
    labels = np.random.default_rng(0).integers(0, classes, (40, 30)).astype(np.int32)
    labels[:5] = classes + 1000  # ignored
    pixels = np.asarray(Image.open(io.BytesIO(painted(labels, palette))).convert("RGBA"))
    assert (pixels[5:, :, :3] == palette[labels[5:]]).all()
    assert (pixels[5:, :, 3] == 255).all()
    assert (pixels[:5, :, 3] == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (1500, 20), (480, 640)])
def test_thumbnails_are_small_and_of_one_size(size):
    pixels = np.zeros((*size, 3), np.uint8)
    palette = np.zeros((2, 3), np.uint8)
    sizes = {
        Image.open(io.BytesIO(data)).size
        for data in (photograph(pixels), painted(np.zeros(size, int), palette), heat(np.zeros(size)))
    }
    (one,) = sizes
    assert max(one) <= SIDE


def test_the_curves_of_a_training_run():
    measures = Measures({"miou": "mIoU"}, "iou", "IoU", "miou")
    records = [
        {"epoch": i, "loss": 2.0 - i, "miou": 0.1 * i, "iou": {"<b>": 0.1 * i, "never": None}, "images_per_s": 5.0}
        | {"data_wait": 0.25}
        for i in range(2)
    ]
    charts = curve_charts(records, measures)
    by_class = next(chart for chart in charts if chart.title == "IoU of the classes")
    assert by_class.lines[0].points == [(0.0, 0.0), (1.0, 0.1)]
    page = render(Page("p", "k", sections=[Section("s", charts)])).decode()
    assert "&lt;b&gt;" in page
    assert len(re.findall("<polyline", page)) == 5  # a class without a score has no line


def test_another_form_of_the_headline_score_is_shown_only_where_it_differs():
    measures = Measures(
        {"miou": "mIoU", "miou_gt_only": "mIoU, gt only", "accuracy": "accuracy"},
        by_class="iou",
        class_title="IoU",
        of_image="miou",
        variants=("miou_gt_only",),
    )
    same = {"miou": 1.0, "miou_gt_only": 1.0, "accuracy": 1.0}
    assert list(measures.titles_of([same])) == ["miou", "accuracy"]
    assert list(measures.titles_of([same, same | {"miou": 0.5}])) == ["miou", "miou_gt_only", "accuracy"]
    other: dict[str, Any] = {"loss": 1.0, "images_per_s": 1.0, "data_wait": 0.0, "iou": {}}
    records = [{"epoch": epoch} | other | same for epoch in (1, 2)]
    charts = {chart.title: chart for chart in curve_charts(records, measures)}
    assert [line.name for line in charts["Validation"].lines] == ["mIoU", "accuracy"]
    assert all(chart.whole for chart in charts.values())
    best = {"iou": {"a": 0.5}} | same | {"epoch": 1}
    split = Split(images="i", labels="l")
    config = TrainConfig(model="unet", train=split, val=split, classes="c", output="out")
    assert format_training(config, measures, [best]).splitlines()[1] == "best: epoch 1, mIoU 1.0000, accuracy 1.0000"
