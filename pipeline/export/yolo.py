"""YOLO text files: `labels/NAME.txt` beside `images/`, with `data.yaml`.

A line is the class and a polygon (x y …), or the class and a box (centre x, centre y, width, height), as shares of the
image's size.
"""

import json

import numpy as np

from pipeline.export.outline import polygon
from pipeline.export.picture import Picture, clean
from pipeline.export.regions import regions
from pipeline.export.writer import Export


class Writer:
    """See `writer.FormatWriter`."""

    def __init__(self, export: Export):
        self._export = export

    def encode(self, picture: Picture) -> None:
        """Write the label file of an image, and the image with `--copy-images`."""
        lines = self._polygons(picture) if self._export.has_masks else self._boxes(picture)
        self._export.write(f"labels/{picture.stem}.txt", "".join(f"{line}\n" for line in lines).encode())
        if self._export.config.copy_images:
            self._export.write(f"images/{picture.file}", picture.image())

    def _polygons(self, picture: Picture) -> list[str]:
        classes, least = len(self._export.classes), self._export.config.min_area
        size = np.array([picture.width, picture.height])
        lines = []
        for region in regions(picture.labels, classes=classes, components=True, min_area=least):
            shares = (polygon(region.mask) + np.array([region.left, region.top])) / size
            lines.append(" ".join([str(region.label), *(f"{share:.6g}" for share in shares.ravel())]))
        return lines

    def _boxes(self, picture: Picture) -> list[str]:
        lines = []
        for box in self._export.kept(picture):
            numbers = (
                (box["xmin"] + box["xmax"]) / 2 / picture.width,
                (box["ymin"] + box["ymax"]) / 2 / picture.height,
                (box["xmax"] - box["xmin"]) / picture.width,
                (box["ymax"] - box["ymin"]) / picture.height,
            )
            label = self._export.classes.names.index(box["class"])
            lines.append(" ".join([str(label), *(f"{number:.6f}" for number in numbers)]))
        return lines

    def add(self, picture: Picture, encoded: None) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Write `data.yaml`."""
        names = {k: clean(name) for k, name in enumerate(self._export.classes.names)}
        lines = ["path: .", "train: images", "val: images", "names:"]
        lines += [f"  {k}: {json.dumps(name, ensure_ascii=False)}" for k, name in names.items()]
        self._export.write("data.yaml", ("\n".join(lines) + "\n").encode())

    def close(self) -> None:
        """Do nothing."""
