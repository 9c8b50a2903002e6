"""COCO JSON with a polygon for each connected region; a hole is joined to the outline (see `outline.polygon`)."""

from typing import Any

import numpy as np

from pipeline.export import coco
from pipeline.export.outline import polygon
from pipeline.export.picture import Picture
from pipeline.export.regions import Region, regions


class Writer(coco.Writer):
    """See `writer.FormatWriter`."""

    def _regions(self, picture: Picture) -> list[Region]:
        classes, least = len(self._export.classes), self._export.config.min_area
        return list(regions(picture.labels, classes=classes, components=True, min_area=least))

    def _annotation(self, region: Region, picture: Picture) -> dict[str, Any]:
        corners = polygon(region.mask) + np.array([region.left, region.top])
        return {
            "category_id": region.label + 1,
            "bbox": region.box,
            "area": region.area,
            "iscrowd": 0,
            "segmentation": [corners.ravel().tolist()],
        }
