"""The ground truth of an image in a localization run, as the plan holds it."""

import json
from typing import NamedTuple


class ImageTruth(NamedTuple):
    """What an image is known to show.

    Attributes:
        classes: Indices of the classes that it shows.
        boxes: Boxes as (class, left, top, right, bottom) with inclusive corners, in pixels of the stored image.
        foreground: URL of its foreground mask; None if there is none.
    """

    classes: list[int]
    boxes: list[tuple[float, ...]]
    foreground: str | None

    @staticmethod
    def from_json(text: str | None) -> "ImageTruth":
        """Read the text of the plan; None is an image of which nothing is known."""
        return ImageTruth([], [], None) if text is None else ImageTruth(**json.loads(text))

    def to_json(self) -> str:
        """Return the text for the plan."""
        return json.dumps(self._asdict())
