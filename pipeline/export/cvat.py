"""CVAT for images 1.1: `annotations.xml` with masks (run lengths) or boxes, and `labels.json` for the task.

CVAT finds the image of an annotation by its name, so the images of the task must have their ids as names.
"""

import json
from xml.sax.saxutils import escape, quoteattr

from pipeline import storage
from pipeline.export.picture import Picture, clean
from pipeline.export.regions import regions
from pipeline.export.rle import cvat_runs
from pipeline.export.spool import Spool
from pipeline.export.writer import Export


class Writer:
    """See `writer.FormatWriter`."""

    def __init__(self, export: Export):
        self._export = export
        self._file = Spool(storage.join(export.config.output, "annotations.xml"))
        kind = "mask" if export.has_masks else "rectangle"
        self._labels = [
            {"name": clean(name), "color": "#{:02x}{:02x}{:02x}".format(*colour), "type": kind, "attributes": []}
            for name, colour in zip(export.classes.names, export.classes.palette.tolist(), strict=True)
        ]
        labels = "".join(
            f"<label><name>{escape(str(label['name']))}</name><color>{label['color']}</color>"
            f"<type>{label['type']}</type><attributes></attributes></label>\n"
            for label in self._labels
        )
        self._file.write(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta><task>'
            f"<name>{escape(clean(export.name))}</name><mode>annotation</mode>\n<labels>\n{labels}</labels>\n"
            "</task></meta>\n"
        )

    def encode(self, picture: Picture) -> str:
        """Return the element of an image."""
        shapes = self._masks(picture) if self._export.has_masks else self._boxes(picture)
        size = f'width="{picture.width}" height="{picture.height}"'
        name = quoteattr(clean(picture.image_id))
        return f'<image id="{picture.number - 1}" name={name} {size}>\n{"".join(shapes)}</image>\n'

    def _masks(self, picture: Picture) -> list[str]:
        config, classes = self._export.config, self._export.classes
        return [
            f'<mask label={quoteattr(clean(classes.names[region.label]))} source="auto" occluded="0" '
            f'rle="{cvat_runs(region.mask)}" left="{region.left}" top="{region.top}" '
            f'width="{region.mask.shape[1]}" height="{region.mask.shape[0]}" z_order="0"></mask>\n'
            for region in regions(
                picture.labels, classes=len(classes), components=config.components, min_area=config.min_area
            )
        ]

    def _boxes(self, picture: Picture) -> list[str]:
        return [
            f'<box label={quoteattr(clean(box["class"]))} source="auto" occluded="0" xtl="{box["xmin"]:.2f}" '
            f'ytl="{box["ymin"]:.2f}" xbr="{box["xmax"]:.2f}" ybr="{box["ymax"]:.2f}" z_order="0"></box>\n'
            for box in self._export.kept(picture)
        ]

    def add(self, picture: Picture, encoded: str) -> None:
        """Append an image."""
        self._file.write(encoded)

    def finish(self) -> None:
        """Store the file, and the labels to paste into a task's constructor."""
        self._file.write("</annotations>\n")
        self._file.store()
        self._export.write("labels.json", json.dumps(self._labels, indent=1, ensure_ascii=False).encode())

    def close(self) -> None:
        """Remove the local file."""
        self._file.close()
