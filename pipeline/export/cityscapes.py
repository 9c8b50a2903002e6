"""PNG masks of Cityscapes' label ids, as its evaluation server takes them: `results/NAME.png`."""

import io

import numpy as np
from PIL import Image

from pipeline.errors import UserError
from pipeline.export.picture import Picture
from pipeline.export.writer import Export

# Ids in cityscapesscripts' labels.py; 'license plate' has the id -1, which an 8-bit mask cannot hold.
LABEL_IDS = {
    "unlabeled": 0,
    "ego vehicle": 1,
    "rectification border": 2,
    "out of roi": 3,
    "static": 4,
    "dynamic": 5,
    "ground": 6,
    "road": 7,
    "sidewalk": 8,
    "parking": 9,
    "rail track": 10,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "guard rail": 14,
    "bridge": 15,
    "tunnel": 16,
    "pole": 17,
    "polegroup": 18,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "caravan": 29,
    "trailer": 30,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


class Writer:
    """See `writer.FormatWriter`."""

    def __init__(self, export: Export):
        names = [name.strip().lower().replace("_", " ") for name in export.classes.names]
        missing = [name for name in names if name not in LABEL_IDS]
        if missing:
            raise UserError(
                f"--format cityscapes: the classes {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''} have no "
                "Cityscapes id; choose --format png"
            )
        self._export = export
        self._ids = np.array([LABEL_IDS[name] for name in names], np.uint8)

    def encode(self, picture: Picture) -> None:
        """Write the mask with Cityscapes' ids in place of class indices."""
        buffer = io.BytesIO()
        Image.fromarray(self._ids[picture.labels]).save(buffer, "PNG")
        self._export.write(f"results/{picture.stem}.png", buffer.getvalue())

    def add(self, picture: Picture, encoded: None) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
