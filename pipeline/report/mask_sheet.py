"""A sheet of masks with a legend, and a row for each image: image | ground truth | prediction."""

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.data.classes import Classes
from pipeline.data.images import colourize, fit

CELL = (320, 240)  # width, height of a picture, in pixels
TEXT = 16  # height of a line of text
MARGIN = 8
FINE = 1024  # pixels on a side: three times those of a cell, so that scaling down smooths


class MaskPicture(NamedTuple):
    """A row of the sheet.

    Attributes:
        title: Text above the row.
        pixels: Image, uint8 [height, width, 3].
        prediction: Class indices [height, width].
        truth: Class indices and ignore index [height, width]; None if the image has no ground truth.
    """

    title: str
    pixels: NDArray[np.uint8]
    prediction: NDArray
    truth: NDArray | None


def thinned(pixels: NDArray) -> NDArray:
    """Return a copy of every k-th row and column of a large picture: a sheet of such pictures fits into memory."""
    step = thinning(pixels)
    return pixels[::step, ::step].copy()


def thinning(pixels: NDArray) -> int:
    """Return k: a picture of a sheet is not larger than `2 * FINE` pixels on a side."""
    return max(1, max(pixels.shape[:2]) // FINE)


def draw_mask_sheet(pictures: list[MaskPicture], classes: Classes, *, last: str = "prediction") -> bytes:
    """Draw a PNG with a row for each picture. Ignored and invalid pixels are black.

    The sheet has a column for the ground truth only if one of the pictures has ground truth.

    Args:
        pictures: The rows.
        classes: Classes with the colours and names of the legend.
        last: Heading of the column of predictions.
    """
    with_truth = any(picture.truth is not None for picture in pictures)
    headings = ["image", "ground truth", last] if with_truth else ["image", last]
    font = ImageFont.load_default(size=TEXT - 3)
    row_height = CELL[1] + TEXT + MARGIN
    width = len(headings) * (CELL[0] + MARGIN) + MARGIN
    legend = _legend_lines(classes, width, font)
    top = MARGIN + TEXT * (len(legend) + 1) + MARGIN
    sheet = Image.new("RGB", (width, top + row_height * len(pictures) + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for line, entries in enumerate(legend):
        for x, k, name in entries:
            y = MARGIN + line * TEXT
            colour = tuple(int(c) for c in classes.palette[k])
            draw.rectangle((x, y + 2, x + TEXT - 6, y + TEXT - 4), fill=colour, outline="gray")
            draw.text((x + TEXT - 2, y - 1), name, "black", font)
    for column, heading in enumerate(headings):
        draw.text((MARGIN + column * (CELL[0] + MARGIN), top - TEXT - 2), heading, "black", font)
    for i, picture in enumerate(pictures):
        y = top + i * row_height
        draw.text((MARGIN, y), picture.title, "gray", font)
        cells = [picture.pixels, _painted_truth(picture, classes)] if with_truth else [picture.pixels]
        cells.append(colourize(picture.prediction, classes.palette))
        for column, cell in enumerate(cells):
            sheet.paste(fit(cell, *CELL, smooth=column == 0), (MARGIN + column * (CELL[0] + MARGIN), y + TEXT))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _painted_truth(picture: MaskPicture, classes: Classes) -> NDArray[np.uint8]:
    if picture.truth is None:
        return np.full_like(picture.pixels, 255)
    return colourize(picture.truth, classes.palette)


LegendEntry = tuple[int, int, str]  # x, class index, name


def _legend_lines(
    classes: Classes, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[list[LegendEntry]]:
    lines: list[list[LegendEntry]] = [[]]
    x = MARGIN
    for k, name in enumerate(classes.names[:100]):
        length = TEXT + int(font.getlength(name)) + 2 * MARGIN
        if x + length > width and lines[-1]:
            lines.append([])
            x = MARGIN
        lines[-1].append((x, k, name))
        x += length
    return lines
