"""A sheet of images with boxes: the true ones on the left, the detections with class and score on the right."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.report.mask_sheet import MARGIN, TEXT

CELL = (480, 360)  # width, height of a picture, in pixels
Colour = tuple[int, int, int]


class LabelledBox(NamedTuple):
    """A box to be drawn.

    Attributes:
        corners: Left, top, right, bottom in pixels of the image.
        colour: Colour of the outline.
        text: Text at its upper left corner.
    """

    corners: Sequence[float]
    colour: Colour
    text: str


class BoxPicture(NamedTuple):
    """A row of the sheet.

    Attributes:
        title: Text above the row.
        pixels: Image, uint8 [height, width, 3].
        columns: Boxes that are drawn on the image, for each column of the sheet.
    """

    title: str
    pixels: NDArray[np.uint8]
    columns: list[list[LabelledBox]]


def draw_box_sheet(pictures: list[BoxPicture], headings: Sequence[str]) -> bytes:
    """Draw a PNG with a row for each picture, and a column for each heading."""
    font = ImageFont.load_default(size=TEXT - 3)
    row_height = CELL[1] + TEXT + MARGIN
    width = len(headings) * (CELL[0] + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, row_height * len(pictures) + TEXT + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        draw.text((MARGIN + column * (CELL[0] + MARGIN), 2), heading, "black", font)
    for i, picture in enumerate(pictures):
        y = TEXT + MARGIN + i * row_height
        draw.text((MARGIN, y - 4), picture.title, "gray", font)
        for column, boxes in enumerate(picture.columns):
            sheet.paste(drawn(picture.pixels, boxes), (MARGIN + column * (CELL[0] + MARGIN), y + TEXT))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def drawn(pixels: NDArray[np.uint8], boxes: list[LabelledBox], *, factor: float | None = None) -> Image.Image:
    """Return an image with boxes, at the size of a cell unless a factor is given; lines and texts have fixed sizes."""
    height, width = pixels.shape[:2]
    factor = factor or min(CELL[0] / width, CELL[1] / height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    image = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=11)
    for corners, colour, text in boxes:
        left, top, right, bottom = (corner * factor for corner in corners)
        draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour, width=2)
        if text:
            place = (left + 2, max(top - 12, 0))
            draw.rectangle(draw.textbbox(place, text, font), fill=colour)
            draw.text(place, text, "white" if sum(colour) < 380 else "black", font)
    return image
