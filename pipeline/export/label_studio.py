"""Label Studio: `tasks-00000.json` … with predictions to correct, and the labelling interface `interface.xml`.

Masks are brush strokes in Label Studio's run-length encoding, boxes are rectangles in percent of the image's size.
"""

import json
from typing import Any
from xml.sax.saxutils import quoteattr

from pipeline.export.picture import Picture, clean
from pipeline.export.regions import regions
from pipeline.export.rle import label_studio_bytes
from pipeline.export.writer import Export

TASKS = 1000  # in a file, which Label Studio imports as a whole


class Writer:
    """See `writer.FormatWriter`."""

    def __init__(self, export: Export):
        self._export = export
        self._tasks: list[str] = []
        self._files = 0

    def encode(self, picture: Picture) -> str:
        """Return the task of an image as JSON."""
        found = self._brushes(picture) if self._export.has_masks else self._rectangles(picture)
        common = {
            "from_name": "label",
            "to_name": "image",
            "original_width": picture.width,
            "original_height": picture.height,
            "image_rotation": 0,
        }
        results = [common | {"id": f"{picture.number}-{i}"} | result for i, result in enumerate(found)]
        task = {
            "data": {"image": self._export.place(picture), "image_id": picture.image_id},
            "predictions": [{"model_version": self._export.name, "result": results}],
        }
        return json.dumps(task)

    def _brushes(self, picture: Picture) -> list[dict[str, Any]]:
        config, names = self._export.config, self._export.classes.names
        return [
            {
                "type": "brushlabels",
                "value": {
                    "format": "rle",
                    "rle": label_studio_bytes(region.whole(picture.height, picture.width)),
                    "brushlabels": [clean(names[region.label])],
                },
            }
            for region in regions(
                picture.labels, classes=len(names), components=config.components, min_area=config.min_area
            )
        ]

    def _rectangles(self, picture: Picture) -> list[dict[str, Any]]:
        x, y = 100 / picture.width, 100 / picture.height
        return [
            {
                "type": "rectanglelabels",
                "score": round(box["score"], 6),
                "value": {
                    "x": box["xmin"] * x,
                    "y": box["ymin"] * y,
                    "width": (box["xmax"] - box["xmin"]) * x,
                    "height": (box["ymax"] - box["ymin"]) * y,
                    "rotation": 0,
                    "rectanglelabels": [clean(box["class"])],
                },
            }
            for box in self._export.kept(picture)
        ]

    def add(self, picture: Picture, encoded: str) -> None:
        """Take a task, and write a file of them when it is full."""
        self._tasks.append(encoded)
        if len(self._tasks) == TASKS:
            self._store()

    def _store(self) -> None:
        self._export.write(f"tasks-{self._files:05}.json", ("[" + ",\n".join(self._tasks) + "]\n").encode())
        self._files += 1
        self._tasks = []

    def finish(self) -> None:
        """Write the last tasks and the labelling interface."""
        if self._tasks:
            self._store()
        control = "BrushLabels" if self._export.has_masks else "RectangleLabels"
        classes = self._export.classes
        colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in classes.palette.tolist()]
        labels = [
            f'    <Label value={quoteattr(clean(name))} background="{colour}"/>'
            for name, colour in zip(classes.names, colours, strict=True)
        ]
        lines = [
            "<View>",
            '  <Image name="image" value="$image" zoom="true"/>',
            f'  <{control} name="label" toName="image">',
            *labels,
            f"  </{control}>",
            "</View>",
        ]
        self._export.write("interface.xml", ("\n".join(lines) + "\n").encode())

    def close(self) -> None:
        """Do nothing."""
