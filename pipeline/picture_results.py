"""What a model says about a picture: the results of `Segmenter`, `Classifier` and `Detector`."""

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import storage
from pipeline.data.images import colourize
from pipeline.errors import UserError
from pipeline.report.box_sheet import LabelledBox, drawn
from pipeline.report.map_sheet import PREDICTED, overlay, with_boxes

MOST_NAMED = 10  # objects in the text of a detection


@dataclass(frozen=True, repr=False)
class Segmentation:
    """The segmentation of a picture.

    Attributes:
        labels: Class indices on the stored pixels, uint8 [height, width] (uint16 for more than 256 classes).
        confidence: Mean over the pixels of the largest class probability, before a CRF; column `mean_confidence`.
        entropy: Mean over the pixels of the entropy of the class probabilities; column `mean_entropy`.
        names: Names of the classes.
        palette: Colours of the classes, uint8 [classes, 3].
        pixels: The stored pixels, uint8 [height, width, 3].
        mask: The labels as PNG, byte for byte that of the column `mask`.
    """

    labels: NDArray[np.uint8] | NDArray[np.uint16]
    confidence: float
    entropy: float
    names: tuple[str, ...]
    palette: NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    mask: bytes

    def __repr__(self) -> str:
        covered = sorted(self.shares().items(), key=lambda item: -item[1])
        shares = [f"{name} {share:.1%}" for name, share in covered if share]
        return _described("Segmentation", self.pixels, *shares, f"mean confidence {self.confidence:.2f}")

    def shares(self) -> dict[str, float]:
        """Return the share of the pixels that each class covers."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.names))
        return {name: float(n) / self.labels.size for name, n in zip(self.names, counts, strict=True)}

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """Return the picture, blended with the colours of the classes."""
        painted = colourize(self.labels, self.palette)
        return Image.blend(Image.fromarray(self.pixels), Image.fromarray(painted), opacity)

    def save(self, url: str | os.PathLike) -> None:
        """Write the labels as an indexed PNG to a path or URL.

        Raises:
            UserError: The name ends as that of another format, such as JPEG, which would change the labels.
        """
        place = os.fspath(url)
        suffix = os.path.splitext(place)[1]
        if suffix.lower() not in ("", ".png"):
            raise UserError(f"{storage.redact(place)}: labels are saved as PNG; name a file .png, not {suffix}")
        storage.write_bytes(place, self.mask)


@dataclass(frozen=True, repr=False)
class Classification:
    """The classes of a picture, and where they are.

    Attributes:
        probabilities: Probability of each class, by name.
        found: Classes that count as found, the most probable first.
        maps: Where the classes found are, by name: float32 [height, width] on the stored pixels, at most 1.
        boxes: Boxes of the classes found, by name: int32 [n, 4] of left, top, right, bottom; the last two exclusive.
        labels: Class indices of `mask_names`, uint8 [height, width]; None without the option `mask`.
        mask_names: Names of the classes of `labels`: background, then the model's.
        pixels: The stored pixels, uint8 [height, width, 3].
    """

    probabilities: dict[str, float]
    found: tuple[str, ...]
    maps: dict[str, NDArray[np.float32]]
    boxes: dict[str, NDArray[np.int32]]
    labels: NDArray[np.uint8] | NDArray[np.uint16] | None
    mask_names: tuple[str, ...]
    pixels: NDArray[np.uint8]

    def __repr__(self) -> str:
        found = [f"{name} {self.probabilities[name]:.2f}" for name in self.found]
        return _described("Classification", self.pixels, *(found or ["nothing found"]))

    def overlay(self, name: str | None = None) -> Image.Image:
        """Return the picture, blended with the map of a class and with its boxes; by default the most probable one."""
        if not self.found:
            return Image.fromarray(self.pixels)
        name = name or self.found[0]
        return Image.fromarray(with_boxes(overlay(self.pixels, self.maps[name]), self.boxes[name], PREDICTED))


@dataclass(frozen=True, repr=False)
class Detection:
    """The objects in a picture, those with the highest scores first.

    Attributes:
        boxes: Left, top, right, bottom in pixels of the stored picture, the last two exclusive, float32 [n, 4].
        classes: Name of the class of each object.
        scores: Confidence of each object, float32 [n].
        palette: Colour of each class by name.
        pixels: The stored pixels, uint8 [height, width, 3].
    """

    boxes: NDArray[np.float32]
    classes: tuple[str, ...]
    scores: NDArray[np.float32]
    palette: dict[str, tuple[int, int, int]]
    pixels: NDArray[np.uint8]

    def __repr__(self) -> str:
        found = [f"{name} {score:.2f}" for name, score in zip(self.classes, self.scores, strict=True)]
        more = f"{len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        return _described("Detection", self.pixels, *(found[:MOST_NAMED] or ["nothing found"]), more)

    def overlay(self) -> Image.Image:
        """Return the picture with boxes, classes and scores."""
        found = list(zip(self.boxes.tolist(), self.classes, self.scores.tolist(), strict=True))
        texts = [LabelledBox(box, self.palette[name], f"{name} {score:.2f}") for box, name, score in found]
        return drawn(self.pixels, texts[::-1], factor=1.0)


def _described(kind: str, pixels: NDArray[np.uint8], *facts: str) -> str:
    """Return a result in one line: its size, width x height, and the facts that are not empty."""
    height, width = pixels.shape[:2]
    return f"<{kind} of {width}x{height} pixels: {', '.join(filter(None, facts))}>"
