"""COCO JSON: `annotations.json` with an RLE for each class of an image (as COCO-Stuff has it), or with boxes.

The category of class k is k + 1, as categories of COCO count from 1.
"""

import json
from typing import Any

from pipeline import storage
from pipeline.export.picture import Picture
from pipeline.export.regions import Region, regions
from pipeline.export.rle import coco_counts
from pipeline.export.spool import Spool
from pipeline.export.writer import Export

FILE = "annotations.json"


class Writer:
    """See `writer.FormatWriter`."""

    def __init__(self, export: Export):
        self._export = export
        url = storage.join(export.config.output, FILE)
        self._images, self._annotations, self._file = Spool(url), Spool(url), Spool(url)
        self._count = 0

    def encode(self, picture: Picture) -> list[dict[str, Any]]:
        """Return the annotations of an image without their ids."""
        if self._export.has_masks:
            return [self._annotation(region, picture) for region in self._regions(picture)]
        return [self._box(box) for box in self._export.kept(picture)]

    def _regions(self, picture: Picture) -> list[Region]:
        config = self._export.config
        return list(
            regions(
                picture.labels,
                classes=len(self._export.classes),
                components=config.components,
                min_area=config.min_area,
            )
        )

    def _annotation(self, region: Region, picture: Picture) -> dict[str, Any]:
        size = (picture.height, picture.width)
        return {
            "category_id": region.label + 1,
            "bbox": region.box,
            "area": region.area,
            "iscrowd": 0,
            "segmentation": {"size": list(size), "counts": coco_counts(region.whole(*size))},
        }

    def _box(self, box: dict[str, Any]) -> dict[str, Any]:
        width, height = box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]
        return {
            "category_id": self._export.classes.names.index(box["class"]) + 1,
            "bbox": [round(number, 3) for number in (box["xmin"], box["ymin"], width, height)],
            "area": round(width * height, 3),
            "iscrowd": 0,
            "score": round(box["score"], 6),
        }

    def add(self, picture: Picture, encoded: list[dict[str, Any]]) -> None:
        """Append the image and its annotations."""
        image = {
            "id": picture.number,
            "file_name": picture.image_id,
            "width": picture.width,
            "height": picture.height,
            "coco_url": self._export.place(picture),
        }
        self._images.item(json.dumps(image))
        for annotation in encoded:
            self._count += 1
            self._annotations.item(json.dumps({"id": self._count, "image_id": picture.number} | annotation))

    def finish(self) -> None:
        """Join the parts of the file."""
        categories = [
            {"id": k, "name": name, "supercategory": ""} for k, name in enumerate(self._export.classes.names, start=1)
        ]
        info = {"description": f"segpipe run {self._export.name}"}
        self._file.write(f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)},\n"images": [\n')
        self._file.extend(self._images)
        self._file.write('\n],\n"annotations": [\n')
        self._file.extend(self._annotations)
        self._file.write("\n]}\n")
        self._file.store()

    def close(self) -> None:
        """Remove the local files."""
        for spool in (self._images, self._annotations, self._file):
            spool.close()
