"""Image labels and boxes from tables and XML files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.bulk.archives.archive import truth_key
from pipeline.data.annotations import Annotation, Annotations, read_annotations
from pipeline.data.image_ids import named_id
from pipeline.errors import UserError

XML = """<annotation><object><name>raccoon</name><bndbox><xmin>81</xmin><ymin>88</ymin><xmax>522</xmax>
<ymax>408</ymax></bndbox></object><object><name>raccoon</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax>
<ymax>4</ymax></bndbox></object></annotation>"""


def annotation(annotations: Annotations, key: str) -> Annotation:
    """Return the annotation of an image that has one."""
    found = annotations.find(key)
    assert found is not None
    return found


def test_a_table_gives_labels_and_boxes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "path,class,xmin,ymin,xmax,ymax\ntrain/a/1.jpg,cat,1,2,3,4\ntrain/a/1.jpg,dog,5,6,7,8\nb.jpg,,,,,\n"
    )
    found = read_annotations(str(tmp_path / "a.csv"))
    one = annotation(found, "train/a/1")
    assert one.labels == ("cat", "dog")
    assert one.boxes[1] == ("dog", 5, 6, 7, 8)
    assert annotation(found, "b").labels == ()
    assert found.find("c") is None


def test_paths_may_start_at_a_folder_above_or_below(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,label\ntrain/a/1.jpg,cat\nval/a/1.jpg,dog\nval/a/2.jpg,newt\n3.jpg,frog\n")
    found = read_annotations(str(tmp_path / "a.csv"))
    assert annotation(found, "a/2").labels == ("newt",)
    assert annotation(found, "2").labels == ("newt",)
    assert found.find("a/1") is None  # it ends two paths
    assert annotation(found, "deep/er/3").labels == ("frog",)


def test_a_cell_holds_several_labels_as_text_or_list(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,labels\n1.jpg,cat; dog\n2.jpg,\n")
    pq.write_table(pa.table({"image_id": ["1", "2"], "labels": [["cat", "dog"], []]}), tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        found = read_annotations(str(tmp_path / name))
        assert annotation(found, "1").labels == ("cat", "dog")
        assert annotation(found, "2").labels == ()


def test_pascal_voc_xml_gives_labels_and_boxes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.xml").write_text(XML)
    found = annotation(read_annotations(str(tmp_path)), "sub/x")
    assert found.labels == ("raccoon",)
    assert [box[1:] for box in found.boxes] == [(81, 88, 522, 408), (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "image,label,xmin,ymin,xmax,ymax\n1.jpg,cat,5,0,1,9\n", "swapped corners"),
        ("a.csv", "image,label\n,cat\n", r"row 0 \(counted from 0\) names no image"),
        ("a.csv", "a,b\n1,2\n", "needs a column 'image'"),
        ("a.xml", "<annotation><object>", "no valid XML"),
        ("a.xml", "<a><object><name>x</name></object></a>", "a box without the four numbers"),
        ("a.txt", "nothing", "neither a .csv or .parquet table nor a folder of .xml files"),
    ],
)
def test_invalid_annotations_are_refused(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=expected):
        read_annotations(str(tmp_path / name) if name.endswith(".csv") else str(tmp_path))


@pytest.mark.parametrize("place", ["s3://bucket/in/a.jpg", "/data/in/a.jpg", "./in/a.jpg", "in/a.jpg", "a.jpg"])
def test_images_are_found_by_the_id_that_a_bulk_run_gives_to_the_same_place(tmp_path, place):
    (tmp_path / "labels.csv").write_text(f"image,label\n{place},cat\nb.jpg,dog\n")
    found = read_annotations(str(tmp_path / "labels.csv")).find(truth_key(named_id(place), {}))
    assert found is not None
    assert found.labels == ("cat",)
