"""The content of the pages of runs, without a browser: built at the end of a run, and again from its tables."""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import dataset

from pipeline import storage
from pipeline.bulk.comparison.page import write_comparison
from pipeline.bulk.comparison.pair import open_pair
from pipeline.bulk.detection.config import DetectConfig
from pipeline.bulk.detection.prepared import Detected
from pipeline.bulk.detection.run import DetectionRun
from pipeline.bulk.localization.config import LocalizeConfig
from pipeline.bulk.localization.located import Located
from pipeline.bulk.localization.run import LocalizationRun
from pipeline.bulk.page import error_causes
from pipeline.bulk.plan import read_manifest
from pipeline.bulk.rebuild import write_page
from pipeline.bulk.results import read_file
from pipeline.bulk.status import StatusReader
from pipeline.bulk.throughput import THROUGHPUT, read_rate
from pipeline.card import Card
from pipeline.commands.report import main
from pipeline.data.classes import Classes
from pipeline.data.preprocessing import ClassifierInput, DetectorInput
from pipeline.errors import UserError
from tests.support.finished import CLASSES, SIZE, draw_images, finished_run, segmented
from tests.support.nights import compute, config_of, draw, without_ray

NAMES = [f"scene{i:02}" for i in range(14)]
LIMIT = 3_000_000  # bytes of a page with all its pictures


def page_of(run: str) -> str:
    return Path(run, "report.html").read_text()


def text_of(page: str) -> str:
    """The words of a page."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def sections(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def groups(page: str) -> dict[str, list[str]]:
    """The titles of the pictures by group."""
    found = {}
    for part in re.split(r"<h3>", page)[1:]:
        heading, _, rest = part.partition("</h3>")
        found[heading] = re.findall(r"<figcaption><b>(.*?)</b>", rest.partition("<h2>")[0])
    return found


def test_the_page_has_the_scores_before_and_after_the_crf(tmp_path):
    draw_images(tmp_path, NAMES)
    (tmp_path / "images" / "broken.png").write_bytes(b"no picture")
    run = segmented(tmp_path, "night", crf=True)
    page = page_of(run)
    assert sections(page) == ["Classes", "Confusion", "Pictures", "Errors", "Time", "Configuration"]
    text = text_of(page)
    raw, crf = read_file(run, "dataset_report/dataset_report.parquet").to_pylist()
    assert f"mIoU {crf['miou']:.4f} {crf['miou'] - raw['miou']:+.4f} by the CRF, from {raw['miou']:.4f}" in text
    rows = read_file(run, "class_report/class_report.parquet").to_pylist()
    for before, after in zip(rows[:3], rows[3:], strict=True):
        assert f"{after['class']} {before['iou']:.4f} {after['iou']:.4f} {after['iou'] - before['iou']:+.4f}" in text
    assert "decode ImageError 1" in text
    assert "broken.png" in text
    assert "images 15 14 with a result" in text


def test_the_groups_hold_the_images_that_their_names_promise(tmp_path):
    draw_images(tmp_path, [f"scene{i:02}" for i in range(40)])
    run = segmented(tmp_path, "night", crf=True)
    shown = groups(page_of(run))
    assert list(shown) == ["Worst mIoU", "Best mIoU", "Most uncertain", "Most changed by the CRF", "Random"]
    assert {len(names) for names in shown.values()} == {6}
    names = [name for group in shown.values() for name in group]
    assert len(set(names)) == 30  # each image once
    rows = read_file(run, read_manifest(run)["files"][0]["path"]).to_pylist()
    scores = {}
    for row in rows:
        tp, gt, pred = (np.array(row[name], float) for name in ("tp", "gt", "pred"))
        union = gt + pred - tp
        scores[row["image_id"]] = float(np.mean(tp[union > 0] / union[union > 0]))
    ranked = sorted(scores, key=scores.__getitem__)
    assert shown["Worst mIoU"] == ranked[:6]
    assert shown["Best mIoU"] == ranked[::-1][:6]
    others = [row for row in rows if row["image_id"] not in names[:12]]
    others.sort(key=lambda row: -row["mean_entropy"])
    assert shown["Most uncertain"] == [row["image_id"] for row in others[:6]]


def test_a_page_that_is_built_again_is_the_same(tmp_path, capsys):
    draw_images(tmp_path, NAMES)
    run = segmented(tmp_path, "night")
    before = Path(run, "report.html").read_bytes()
    Path(run, "report.html").unlink()
    main([run])
    assert capsys.readouterr().out == f"report: {run}/report.html\n"
    assert Path(run, "report.html").read_bytes() == before


def test_a_page_on_an_object_store(tmp_path, s3):
    draw_images(tmp_path, NAMES)
    run = segmented(tmp_path, "night")
    there = f"{s3}/runs/run_id=night"
    for file in Path(run).rglob("*.*"):
        if file.is_file() and file.name != "report.html":
            storage.write_bytes(f"{there}/{file.relative_to(run)}", file.read_bytes())
    assert write_page(there) == f"{there}/report.html"
    assert storage.read_bytes(f"{there}/report.html") == Path(run, "report.html").read_bytes()


def test_images_that_have_vanished_are_shown_by_their_masks(tmp_path):
    draw_images(tmp_path, NAMES)
    run = segmented(tmp_path, "night")
    shutil.rmtree(tmp_path / "images")
    shutil.rmtree(tmp_path / "labels")
    write_page(run)
    page = page_of(run)
    assert 'data-layer="picture"' not in page
    assert page.count('data-layer="prediction"') == len(NAMES)
    assert "the image cannot be read now" in page
    assert "Confusion" in sections(page)  # the scores are in the tables


def test_without_labels_the_page_has_shares(tmp_path):
    draw_images(tmp_path, NAMES)
    run = segmented(tmp_path, "night", labels=False, error=0.0)
    page = page_of(run)
    assert "Confusion" not in sections(page)
    assert list(groups(page)) == ["Most uncertain", "Random"]
    rows = read_file(run, read_manifest(run)["files"][0]["path"])
    pixels = [sum(rows[f"px_{name}"].to_pylist()) for name in CLASSES.names]
    for name, count in zip(CLASSES.names, pixels, strict=True):
        assert f"{name} {count / sum(pixels):.4f} 14 100.0%" in text_of(page)


def test_errors_of_one_class_are_told_apart_by_their_messages():
    """Numbers and the image's own name differ from image to image, and make no cause of their own."""
    messages = ["the file is empty", "truncated at byte {}", "no such key: {}.jpg"]
    rows = [
        {"image_id": f"{i}", "status": "error", "error_stage": "decode", "error_class": "ImageError"}
        | {"error_message": messages[i % 3].format(i)}
        for i in range(11)
    ]
    table = error_causes(dataset.dataset(pa.Table.from_pylist(rows)))
    assert sorted((row[2], row[3]) for row in table.rows) == [
        (3, "no such key: 2.jpg"),
        (4, "the file is empty"),
        (4, "truncated at byte 1"),
    ]
    assert {row[4] for row in table.rows} == {"0, 3, 6", "1, 4, 7", "2, 5, 8"}


def test_a_run_without_a_single_result_has_a_page(tmp_path):
    draw_images(tmp_path, [])
    for name in ("a", "b"):
        (tmp_path / "images" / f"{name}.png").write_bytes(b"no picture")
    run = segmented(tmp_path, "night", labels=False)
    text = text_of(page_of(run))
    assert "images 2 0 with a result" in text
    assert "errors 2 100.00% of the images" in text
    assert groups(page_of(run)) == {}


def test_a_night_without_news_has_a_page(tmp_path, monkeypatch):
    without_ray(monkeypatch)
    draw(tmp_path / "images", "a.png")
    compute(config_of(tmp_path, run_id="first"))
    run = compute(config_of(tmp_path, run_id="second", since=f"{tmp_path}/runs/run_id=first"))
    assert run is not None
    assert "images 0" in text_of(page_of(run))
    before = Path(run, "report.html").read_bytes()
    write_page(run)
    assert Path(run, "report.html").read_bytes() == before


def test_many_classes_and_images_keep_the_page_small(tmp_path):
    many = Classes(names=tuple(f"class {k:03}" for k in range(150)))
    draw_images(tmp_path, [f"scene{i:02}" for i in range(40)], classes=150)
    run = segmented(tmp_path, "night", classes=many)
    page = page_of(run)
    assert page.count('<th scope="row">') == 150 + 30  # all in the list, those with the most pixels in the matrix
    (file,) = read_manifest(run)["files"]
    rows = read_file(run, file["path"])
    copies = pa.concat_tables([rows] * 250)
    ids = pa.array([f"{i:05}.png" for i in range(len(copies))])
    pq.write_table(copies.set_column(0, copies.schema.field(0), ids), Path(run, file["path"]), row_group_size=1000)
    manifest = read_manifest(run) | {"images": len(copies)}
    manifest["files"][0]["rows"] = len(copies)
    Path(run, "manifest.json").write_text(json.dumps(manifest))
    write_page(run)
    page = page_of(run)
    assert "images 10,000" in text_of(page)
    assert sum(map(len, groups(page).values())) <= 30
    assert len(page) < LIMIT


def test_nothing_is_loaded_and_every_name_is_escaped(tmp_path):
    hostile = '<script>alert("x")</script>'
    classes = Classes(names=("sky", hostile, "'car'"))
    draw_images(tmp_path, ["<img src=x>", *NAMES])
    (tmp_path / "images" / "<b>.png").write_bytes(b"no picture")
    run = segmented(tmp_path, "night", classes=classes)
    page = page_of(run)
    assert hostile not in page
    assert "<img src=x>" not in page
    assert page.count("<script>") == 1
    for attribute in re.findall(r'\s(?:src|href)="([^"]*)"', page):
        assert attribute.startswith(("data:", "#"))
    assert "url(" not in page
    assert "default-src 'none'" in html.unescape(page)


def test_the_throughput_is_kept_although_the_shards_are_removed(tmp_path):
    draw_images(tmp_path, [f"scene{i:02}" for i in range(22)])
    run = segmented(tmp_path, "night")
    table = read_file(run, THROUGHPUT)
    assert table["images"].to_pylist() == [4, 4, 4, 4, 4, 2]
    assert table["shard"].to_pylist() == list(range(6))
    rate = read_rate(run)
    assert rate is not None
    assert rate.images == 18  # those of the first shard came before the time that is measured
    assert "Images per second" in page_of(run)
    Path(run, THROUGHPUT).unlink()  # a run of an earlier version
    write_page(run)
    assert "Images per second" not in page_of(run)
    assert StatusReader(run).read().state == "finished"


@pytest.mark.parametrize("case", ["missing", "file", "folder", "runs", "unfinished"])
def test_what_is_no_finished_run_is_refused_in_one_line(tmp_path, case):
    draw_images(tmp_path, NAMES[:2])
    run = segmented(tmp_path, "night")
    places = {
        "missing": f"{tmp_path}/no",
        "file": f"{run}/manifest.json",
        "folder": f"{tmp_path}/images",
        "runs": f"{tmp_path}/runs",
        "unfinished": run,
    }
    says = {
        "missing": "does not exist",
        "file": "is a file",
        "folder": "is not a run",
        "runs": f"such as {run}",
        "unfinished": "segpipe status",
    }
    if case == "unfinished":
        Path(run, "manifest.json").unlink()
    with pytest.raises(UserError) as refused:
        main([places[case]])
    assert says[case] in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a", "b"], "name one run, or two with --compare; 2 are named"),
        (["--compare", "a"], "--compare needs two runs; 1 are named"),
        (["--compare", "a", "b"], "--compare needs --output"),
    ],
)
def test_options_that_do_not_fit(arguments, says):
    with pytest.raises(UserError, match=re.escape(says)):
        main(arguments)


def localized(folder: Path, run_id: str, *, truth: bool) -> str:
    """Localize the car in `folder/images`."""
    if truth:
        height, width = SIZE
        lines = [f"{name}.png,car,5,5,{width // 2},{height // 2}" for name in NAMES]
        (folder / "boxes.csv").write_text("\n".join(["image,label,xmin,ymin,xmax,ymax", *lines]) + "\n")
    config = LocalizeConfig(
        model="-",
        images=str(folder / "images"),
        output=str(folder / "runs"),
        truth=str(folder / "boxes.csv") if truth else None,
        heatmaps=True,
    )
    card = Card(
        architecture="drawn", options={}, classes=CLASSES, classifier=ClassifierInput(size=(32, 32), multi_label=False)
    )
    heatmap = np.zeros((1, 8, 8), np.float32)
    heatmap[0, 1:4, 1:4] = 1

    def result_of(image_id: str, pixels: Any) -> Located:
        return Located(np.array([0.1, 0.2, 0.7], np.float32), [2], 1, heatmap)

    return finished_run(LocalizationRun(config, card), run_id, result_of)


@pytest.mark.parametrize("truth", [False, True])
def test_the_page_of_a_localization_run(tmp_path, truth):
    draw_images(tmp_path, NAMES)
    run = localized(tmp_path, "night", truth=truth)
    page = page_of(run)
    assert ("Boxes" in sections(page)) == truth
    assert page.count('data-layer="map"') == len([name for group in groups(page).values() for name in group]) > 5
    assert page.count('data-name="car"') >= 6  # boxes of the maps
    before = Path(run, "report.html").read_bytes()
    write_page(run)
    assert Path(run, "report.html").read_bytes() == before
    if truth:
        assert list(groups(page)) == ["Lowest IoU", "Highest IoU", "Random"]
        assert "GT-known localization at IoU 0.5" in text_of(page)
    else:
        assert "car 1.0000 14" in text_of(page)


def detected(folder: Path, run_id: str, *, truth: bool, score: float = 0.75) -> str:
    """Detect a car in `folder/images`."""
    if truth:
        lines = [f"{name}.png,car,10,10,{30 + (i % 3) * 20},40" for i, name in enumerate(NAMES)]
        (folder / "boxes.csv").write_text("\n".join(["image,label,xmin,ymin,xmax,ymax", *lines]) + "\n")
    config = DetectConfig(
        model="-",
        images=str(folder / "images"),
        output=str(folder / "runs"),
        truth=str(folder / "boxes.csv") if truth else None,
    )
    card = Card(architecture="drawn", options={}, classes=CLASSES, detector=DetectorInput(proposals=None))

    def result_of(image_id: str, pixels: Any) -> Detected:
        boxes = np.array([[10, 10, 30, 40]], np.float32)
        scores = np.array([score], np.float32)
        return Detected(SIZE, boxes, np.array([2]), scores, 50, 1.0, None, None, None)

    return finished_run(DetectionRun(config, card), run_id, result_of)


@pytest.mark.parametrize("truth", [False, True])
def test_the_page_of_a_detection_run(tmp_path, truth):
    draw_images(tmp_path, NAMES)
    run = detected(tmp_path, "night", truth=truth)
    page = page_of(run)
    assert page.count('data-layer="detections"') == len([name for group in groups(page).values() for name in group]) > 5
    assert "car 0.75" in page
    assert ("Precision over recall" in sections(page)) == truth
    if not truth:
        assert "car 1.0000 14 0.750" in text_of(page)
    before = Path(run, "report.html").read_bytes()
    write_page(run)
    assert Path(run, "report.html").read_bytes() == before


def test_a_job_without_a_page_of_its_own_shows_its_tables(tmp_path):
    draw_images(tmp_path, NAMES)
    run = segmented(tmp_path, "night")
    manifest = read_manifest(run) | {"job": "colours"}
    Path(run, "manifest.json").write_text(json.dumps(manifest))
    write_page(run)
    assert "Class report" in sections(page_of(run))
    with pytest.raises(UserError, match="runs of colours cannot be compared"):
        open_pair(run, run)


def test_a_comparison_matches_images_by_name_and_content(tmp_path):
    draw_images(tmp_path, NAMES)
    earlier = segmented(tmp_path, "earlier", error=0.5)
    (tmp_path / "images" / f"{NAMES[0]}.png").unlink()
    draw_images(tmp_path, [NAMES[1]], seed=99)  # another picture of the same name
    draw_images(tmp_path, ["new0", "new1"], seed=5)
    later = segmented(tmp_path, "later", error=0.1)
    pair = open_pair(earlier, later)
    assert [pair.earlier.amounts.ids[i] for i in pair.matched[0]] == [f"{name}.png" for name in NAMES[2:]]
    assert [pair.later.amounts.ids[j] for j in pair.matched[1]] == [f"{name}.png" for name in NAMES[2:]]
    assert pair.replaced == 1
    assert [len(only) for only in pair.only] == [2, 3]
    assert (pair.gain > 0).all()
    main(["--compare", earlier, later, "--output", str(tmp_path / "changes.html")])
    text = text_of((tmp_path / "changes.html").read_text())
    assert "pictures in both 12 1 more have the same name and another content" in text
    assert f"change of mIoU {pair.gain.mean():+.4f} mean over 12 pictures in both" in text
    assert "Not tested: 2 pictures are only in the earlier run and 3 only in the later one" in text
    scores = [
        {row["class"]: row["iou"] for row in read_file(run, "class_report/class_report.parquet").to_pylist()}
        for run in (earlier, later)
    ]
    for name in CLASSES.names:
        assert f"{name} {scores[0][name]:.4f} {scores[1][name]:.4f} {scores[1][name] - scores[0][name]:+.4f}" in text


def test_the_changed_share_of_a_picture_is_that_of_its_masks(tmp_path):
    draw_images(tmp_path, NAMES)
    earlier, later = segmented(tmp_path, "earlier", error=0.0), segmented(tmp_path, "later", error=1.0)
    write_comparison(earlier, later, str(tmp_path / "changes.html"))
    page = (tmp_path / "changes.html").read_text()
    assert page.count("100.0% of the pixels changed class") == 12
    same = str(tmp_path / "same.html")
    write_comparison(earlier, earlier, same)
    assert "Model and options are the same." in Path(same).read_text()
    assert "unchanged 14" in text_of(Path(same).read_text())


def night(folder: Path, run_id: str, *, seed: int, car: float) -> str:
    draw_images(folder, [f"{run_id}{i:02}" for i in range(40)], seed=seed, car=car, images=run_id)
    return segmented(folder, run_id, images=run_id, labels=False, error=0.0)


def test_more_cars_are_drift_and_as_many_are_none(tmp_path):
    runs = [
        night(tmp_path, name, seed=seed, car=car)
        for seed, (name, car) in enumerate({"monday": 0.2, "tuesday": 0.2, "friday": 0.3}.items())
    ]
    write_comparison(runs[0], runs[1], str(tmp_path / "quiet.html"))
    assert "classes that drifted 0" in text_of((tmp_path / "quiet.html").read_text())
    write_comparison(runs[0], runs[2], str(tmp_path / "loud.html"))
    text = text_of((tmp_path / "loud.html").read_text())
    assert re.search(r"classes that drifted [12] (road, )?car ", text)
    assert re.search(r"car 0\.\d+ 0\.\d+ \+0\.\d+ (medium|large) \S+ ?\S* \S+ ?\S* drifted", text)
    assert "Mann–Whitney" in text
    assert "40 pictures that are only in the earlier run, 40 only in the later one" in text


def test_runs_that_cannot_be_compared_are_refused_in_one_line(tmp_path):
    draw_images(tmp_path, NAMES)
    masks, boxes = segmented(tmp_path, "masks"), detected(tmp_path, "boxes", truth=False)
    with pytest.raises(UserError, match="compare two runs of one kind"):
        write_comparison(masks, boxes, str(tmp_path / "x.html"))
    others = segmented(tmp_path, "others", classes=Classes(names=("a", "b", "c")))
    with pytest.raises(UserError, match="have no class in common"):
        write_comparison(masks, others, str(tmp_path / "x.html"))
    with pytest.raises(UserError, match="does not exist"):
        write_comparison(masks, str(tmp_path / "no"), str(tmp_path / "x.html"))
    assert not (tmp_path / "x.html").exists()
    assert read_manifest(masks)["job"] == "segment"


def test_localization_and_detection_runs_are_compared(tmp_path):
    draw_images(tmp_path, NAMES)
    located = [localized(tmp_path, name, truth=True) for name in ("a", "b")]
    write_comparison(located[0], located[1], str(tmp_path / "located.html"))
    assert "average precision earlier" in text_of((tmp_path / "located.html").read_text())
    found = [detected(tmp_path, name, truth=False, score=score) for name, score in {"c": 0.75, "d": 0.5}.items()]
    write_comparison(found[0], found[1], str(tmp_path / "found.html"))
    assert "car 0.7500 0.5000 -0.2500" in text_of((tmp_path / "found.html").read_text()).replace("1.0000 0.6667 ", "")
