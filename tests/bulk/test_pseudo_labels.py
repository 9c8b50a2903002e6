"""Label maps of a localization run are written below the output, each for one image."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.bulk.localization.config import PseudoLabelsConfig
from pipeline.bulk.localization.pseudo_labels import SAME_PLACE, Labeller
from pipeline.bulk.results import RowGroup
from pipeline.data.classes import Classes


def label(folder: Path, ids: list[str], shared: frozenset[str]) -> list[dict[str, object]]:
    """Make the label maps of a run over one black image under several ids."""
    Image.new("RGB", (6, 4)).save(folder / "black.png")
    rows = [{"image_id": i, "uri": f"{folder}/black.png", "status": "ok", "error_message": None} for i in ids]
    classes = pa.array([[]] * len(ids), pa.list_(pa.struct([("class", pa.string()), ("found", pa.bool_())])))
    (folder / "run").mkdir()
    pq.write_table(pa.Table.from_pylist(rows).append_column("classes", classes), folder / "run" / "rows.parquet")
    config = PseudoLabelsConfig(run=str(folder / "run"), output=str(folder / "out"), crf=False)
    labeller = Labeller(config, Classes(names=("background", "cat")), known=False, shared=shared)
    return labeller.label(RowGroup("rows.parquet", 0, len(ids)), 0)


def test_no_id_leads_out_of_the_output(tmp_path):
    """Those of this version cannot, but the run may be of an earlier one."""
    found = label(tmp_path, ["../../above.jpg", "/absolute.jpg", "a/../b.jpg", "plain/c.jpg"], frozenset())
    expected = ["labels/above.png", "labels/absolute.png", "labels/b.png", "labels/plain/c.png"]
    assert [row["label"] for row in found] == expected
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("out/**/*.png")) == expected
    assert not list(tmp_path.glob("*/above.png"))


def test_images_that_differ_in_the_suffix_only_do_not_overwrite_each_other(tmp_path):
    found = label(tmp_path, ["same.jpg", "same.png", "other.png"], frozenset(["labels/same.png"]))
    assert [row.get("error") for row in found] == [SAME_PLACE, SAME_PLACE, None]
    assert [path.name for path in (tmp_path / "out" / "labels").iterdir()] == ["other.png"]
