"""Exports of runs: hostile names, selections, mistakes, and memory that does not grow with the run."""

import json
import tracemalloc
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.data.classes import Classes
from pipeline.errors import UserError
from pipeline.export import FORMATS
from pipeline.export.config import ExportConfig
from pipeline.export.picture import stem_of
from pipeline.export.run import export_run
from tests.support.exported import hole_and_island, ragged, write_detections, write_run

HOSTILE = [
    "../../above.jpg",
    "/absolute.jpg",
    "line\nbreak\x01.jpg",
    "..\\windows.jpg",
    "same.jpg",
    "same.png",
    "ü/" + "long" * 80 + ".jpg",
    "#%?&<>\"'.jpg",
    ".jpg",
    "...",
]


def config(run: str, tmp_path: Path, **options) -> ExportConfig:
    return ExportConfig(run=run, output=str(tmp_path / "out"), **{"format": "coco"} | options)


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_names_neither_leave_the_output_nor_overwrite_each_other(name, tmp_path):
    run = write_run(
        tmp_path,
        {image_id: ragged(i, (4, 6)) for i, image_id in enumerate(HOSTILE)},
        Classes(names=("road", "car", "sky")),
    )
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    images = {"copy_images": True} if FORMATS[name].images else {}
    exported = export_run(config(run, tmp_path, format=name, **images))
    assert (exported.images, exported.errors) == (len(HOSTILE), 1)
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(tmp_path / "out") for path in written)
    for folder in ("masks", "results", "labels"):
        files = list((tmp_path / "out" / folder).rglob("*.*"))
        assert len([path for path in files if path.is_file()]) in (0, len(HOSTILE))
    if name == "cvat":
        root = ElementTree.parse(tmp_path / "out/annotations.xml").getroot()
        assert len(list(root.iter("image"))) == len(HOSTILE)


def test_the_names_of_ordinary_images_stay_as_they_are():
    assert stem_of("a/b.c.jpg") == "a/b.c"
    assert stem_of("a/b.jpg", shared=True) != stem_of("a/b.png", shared=True)


def test_a_condition_selects_images(tmp_path):
    run = write_run(tmp_path, {"a.jpg": hole_and_island(), "b.jpg": np.zeros((3, 3), np.int32)})
    exported = export_run(config(run, tmp_path, where="px_car > 0"))
    assert exported == (1, 0, 2)
    content = json.loads((tmp_path / "out/annotations.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.jpg"]


@pytest.mark.parametrize(
    "where", ["px_cra > 0", "1 = 1) --", "image_id IN (SELECT content FROM read_text('/etc/passwd'))"]
)
def test_a_condition_that_is_no_sql_is_one_line(where, tmp_path):
    run = write_run(tmp_path, {"a.jpg": hole_and_island()})
    with pytest.raises(UserError, match=r"^--where: .+") as found:
        export_run(config(run, tmp_path, where=where))
    assert "\n" not in str(found.value)


def test_mistakes_are_one_line(tmp_path):
    masks = write_run(tmp_path / "masks", {"a.jpg": hole_and_island()})
    boxes = write_detections(tmp_path / "boxes", {"a.jpg": []})
    with pytest.raises(UserError, match=r"holds no boxes, and .* has only boxes; choose one of coco, yolo"):
        export_run(config(boxes, tmp_path, format="png"))
    with pytest.raises(UserError, match="--copy-images: the format coco holds no images"):
        export_run(config(masks, tmp_path, copy_images=True))
    with pytest.raises(UserError, match="nowhere does not exist; name the folder of a run"):
        export_run(config(str(tmp_path / "nowhere"), tmp_path))
    with pytest.raises(UserError, match="nothing to export; --where 'false' chose none"):
        export_run(config(masks, tmp_path, where="false"))


def test_an_export_reads_from_and_writes_to_any_storage(tmp_path):
    run = write_run(tmp_path, {"a.jpg": hole_and_island(), "b.jpg": hole_and_island()})
    for file in Path(run).rglob("*.*"):
        if file.is_file():
            storage.write_bytes(f"memory://runs/r/{file.relative_to(run)}", file.read_bytes())
    for name in ("png", "coco", "huggingface", "cvat"):
        export_run(ExportConfig(run="memory://runs/r", format=name, output="memory://out"))
    found = {file.path for file in storage.list_files("memory://out")}
    assert {"/out/masks/a.png", "/out/annotations.json", "/out/data/train-00000.parquet"} <= found


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Five times as many rows; what remains is a hash of each name."""
    peaks = []
    for count in (300, 1500):
        run = write_run(tmp_path / str(count), {"a.jpg": ragged(1, (64, 64))})
        file = Path(run) / "images/part-0.parquet"
        row = pq.read_table(file).slice(0, 1)
        with pq.ParquetWriter(file, row.schema) as writer:
            for first in range(0, count, 100):
                names = pa.array([f"{first + i}.jpg" for i in range(100)])
                rows = pa.concat_tables([row] * 100).set_column(0, row.schema.field(0), names)
                writer.write_table(rows)
        tracemalloc.start()
        export_run(ExportConfig(run=run, format="coco", output=str(tmp_path / f"out{count}")))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 6e6  # the additional annotations alone are three times as large


def test_an_image_that_is_gone_is_left_out_of_the_copies(tmp_path, capsys):
    run = write_run(tmp_path, {"a.jpg": hole_and_island(), "b.jpg": hole_and_island()})
    (tmp_path / "images/0.jpg").unlink()
    exported = export_run(config(run, tmp_path, format="fiftyone", copy_images=True))
    assert exported == (1, 2, 0)
    assert [path.name for path in (tmp_path / "out/data").iterdir()] == ["b.jpg"]
    assert "images/0.jpg: it does not exist" in capsys.readouterr().err
