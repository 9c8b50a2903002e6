"""Indexed PNG masks with the class palette, as the run stores them: `masks/NAME.png` and the class file."""

import json

from pipeline.errors import UserError
from pipeline.export.picture import Picture
from pipeline.export.writer import Export


class Writer:
    """See `writer.FormatWriter`."""

    def __init__(self, export: Export):
        if len(export.classes) > 256:
            raise UserError(
                f"--format png holds at most 256 classes, and the run has {len(export.classes)}; choose --format coco"
            )
        self._export = export

    def encode(self, picture: Picture) -> None:
        """Copy the mask, which has this format already."""
        assert picture.png is not None
        self._export.write(f"masks/{picture.stem}.png", picture.png)

    def add(self, picture: Picture, encoded: None) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Write `classes.yaml`, which `segpipe train --classes` reads."""
        classes = self._export.classes
        content = {"names": list(classes.names), "colours": classes.palette.tolist()}
        self._export.write("classes.yaml", json.dumps(content, indent=1, ensure_ascii=False).encode())  # JSON is YAML

    def close(self) -> None:
        """Do nothing."""
