"""Drawn pictures with boxes in each format of annotations."""

import csv
import json
from pathlib import Path

from pipeline.demo.shapes import NAMES, SIDE, write_shapes


def write_boxed_shapes(folder: Path, *, count: int, seed: int) -> None:
    """Write pictures of shapes with `boxes.csv`, the same as `boxes.json` (COCO), and as `xml/` (Pascal VOC)."""
    write_shapes(folder, count=count, seed=seed)
    (folder / "xml").mkdir()
    with (folder / "boxes.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["image"] for row in rows})
    annotations = []
    texts: dict[str, str] = {}
    for i, row in enumerate(rows):
        left, top, right, bottom = (int(row[name]) for name in ("xmin", "ymin", "xmax", "ymax"))
        bbox = [left, top, right + 1 - left, bottom + 1 - top]
        category, image = NAMES.index(row["class"]), names.index(row["image"])
        annotations.append({"id": i, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0})
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (left, top, right, bottom), strict=True)
        tags = "".join(f"<{name}>{value + 1}</{name}>" for name, value in corners)
        element = f"<object><name>{row['class']}</name><bndbox>{tags}</bndbox></object>"
        texts[row["image"]] = texts.get(row["image"], "") + element
    for name, text in texts.items():
        (folder / "xml" / name.replace(".png", ".xml")).write_text(f"<annotation>{text}</annotation>")
    content = {
        "images": [{"id": i, "file_name": name, "width": SIDE, "height": SIDE} for i, name in enumerate(names)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)],
        "annotations": annotations,
    }
    (folder / "boxes.json").write_text(json.dumps(content))
