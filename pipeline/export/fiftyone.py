"""FiftyOne's folders: ImageSegmentationDirectory (`labels/NAME.png`) or FiftyOneImageDetectionDataset (`labels.json`).

The images are below `data/` with `--copy-images`; otherwise the manifest `data.json` says where they are.
`mask_targets.json` has the names of the values in masks.
"""

import io
import json
from typing import Any

import numpy as np
from PIL import Image

from pipeline import storage
from pipeline.errors import UserError
from pipeline.export.picture import Picture
from pipeline.export.spool import Spool
from pipeline.export.writer import Export


class Writer:
    """See `writer.FormatWriter`."""

    def __init__(self, export: Export):
        if export.has_masks and len(export.classes) > 255:
            raise UserError(
                f"--format fiftyone holds at most 255 classes, because the value 0 of its masks is the background, and "
                f"the run has {len(export.classes)}; choose --format coco"
            )
        self._export = export
        output = export.config.output
        self._data = Spool(storage.join(output, "data.json"))
        self._labels = Spool(storage.join(output, "labels.json"))

    def encode(self, picture: Picture) -> list[dict[str, Any]]:
        """Write the mask and the image, or return the detections with boxes as shares of the image's size."""
        if self._export.config.copy_images:
            self._export.write(f"data/{picture.file}", picture.image())
        if self._export.has_masks:
            buffer = io.BytesIO()
            Image.fromarray((picture.labels + 1).astype(np.uint8)).save(buffer, "PNG")
            self._export.write(f"labels/{picture.stem}.png", buffer.getvalue())
            return []
        x, y = 1 / picture.width, 1 / picture.height
        return [
            {
                "label": box["class"],
                "bounding_box": [
                    box["xmin"] * x,
                    box["ymin"] * y,
                    (box["xmax"] - box["xmin"]) * x,
                    (box["ymax"] - box["ymin"]) * y,
                ],
                "confidence": round(box["score"], 6),
            }
            for box in self._export.kept(picture)
        ]

    def add(self, picture: Picture, encoded: list[dict[str, Any]]) -> None:
        """Append an image to the manifest, and its detections to the labels."""
        self._data.item(f"{json.dumps(picture.stem)}: {json.dumps(self._export.place(picture))}")
        if not self._export.has_masks:
            self._labels.item(f"{json.dumps(picture.stem)}: {json.dumps(encoded)}")

    def finish(self) -> None:
        """Write the manifest and the names of the classes."""
        names, output = list(self._export.classes.names), self._export.config.output
        if not self._export.config.copy_images:
            self._store(self._data, storage.join(output, "data.json"), "{\n", "\n}\n")
        if self._export.has_masks:
            targets = dict(enumerate(names, start=1))
            self._export.write("mask_targets.json", json.dumps(targets, indent=1).encode())
        else:
            head = f'{{"classes": {json.dumps(names)},\n"labels": {{\n'
            self._store(self._labels, storage.join(output, "labels.json"), head, "\n}}\n")

    def _store(self, items: Spool, url: str, head: str, tail: str) -> None:
        whole = Spool(url)
        try:
            whole.write(head)
            whole.extend(items)
            whole.write(tail)
            whole.store()
        finally:
            whole.close()

    def close(self) -> None:
        """Remove the local files."""
        self._data.close()
        self._labels.close()
