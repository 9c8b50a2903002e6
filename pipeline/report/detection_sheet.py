"""A sheet of pictures with boxes: two images in a row, or an image with its true boxes and with its detections."""

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.data.images import fit
from pipeline.report.mask_sheet import MARGIN, TEXT

CELL = (488, 366)  # width, height of a picture, in pixels
TRUTH, RIGHT, WRONG, IGNORED = (40, 120, 255), (0, 160, 0), (230, 30, 30), (128, 128, 128)
Colour = tuple[int, ...]


class DrawnBox(NamedTuple):
    """A box of a picture.

    Attributes:
        corners: Left, top, right, bottom in pixels of the picture.
        colour: Red, green, blue.
        text: Text above the box.
    """

    corners: tuple[float, ...]
    colour: Colour
    text: str


class DetectionPicture(NamedTuple):
    """An image of the sheet.

    Attributes:
        title: Text above it.
        pixels: Image, uint8 [height, width, 3].
        found: Detections.
        truth: True boxes; None if they are not known.
    """

    title: str
    pixels: NDArray[np.uint8]
    found: list[DrawnBox]
    truth: list[DrawnBox] | None


def draw_detection_sheet(pictures: list[DetectionPicture]) -> bytes:
    """Draw a PNG with a row for each picture that has true boxes, and a row for two of the others."""
    cells: list[tuple[str, Image.Image]] = []
    for picture in pictures:
        if picture.truth is not None:
            cells.append((picture.title, _boxed(picture.pixels, picture.truth)))
        cells.append((picture.title if picture.truth is None else "", _boxed(picture.pixels, picture.found)))
    font = ImageFont.load_default(size=TEXT - 3)
    row_height = CELL[1] + TEXT + MARGIN
    size = (2 * (CELL[0] + MARGIN) + MARGIN, row_height * -(-len(cells) // 2) + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, cell) in enumerate(cells):
        x, y = MARGIN + i % 2 * (CELL[0] + MARGIN), MARGIN + i // 2 * row_height
        draw.text((x, y - 2), title, "black", font)
        sheet.paste(cell, (x, y + TEXT))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _boxed(pixels: NDArray[np.uint8], boxes: list[DrawnBox]) -> Image.Image:
    """Return an image at the size of a cell, with boxes whose lines and texts have the same size in every cell."""
    image = fit(pixels, *CELL)
    height, width = pixels.shape[:2]
    factor = min(CELL[0] / width, CELL[1] / height)
    left, top = ((side - factor * length) / 2 for side, length in zip(CELL, (width, height), strict=True))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=10)
    for box in boxes:
        x0, y0, x1, y1 = (factor * corner + (left, top)[i % 2] for i, corner in enumerate(box.corners))
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=box.colour, width=2)
        place = (x0 + 2, y0 - 12 if y0 >= 12 else y0 + 2)
        draw.rectangle(draw.textbbox(place, box.text, font), fill=box.colour)
        draw.text(place, box.text, "white" if sum(box.colour) < 480 else "black", font)
    return image
