"""A sheet of heatmaps with a row for each image: image with boxes | heatmap over the image."""

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.data.images import fit
from pipeline.report.mask_sheet import CELL, MARGIN, TEXT

PREDICTED = (255, 40, 40)
TRUTH = (40, 220, 40)


class MapPicture(NamedTuple):
    """A row of the sheet.

    Attributes:
        title: Text above the row.
        pixels: Image, uint8 [height, width, 3].
        heatmap: Map [height, width] in 0..1; None if the image has none.
        boxes: Predicted boxes [n, 4] of left, top, right, bottom, drawn in red.
        truth: True boxes [n, 4], drawn in green.
    """

    title: str
    pixels: NDArray[np.uint8]
    heatmap: NDArray | None
    boxes: ArrayLike = ()
    truth: ArrayLike = ()


def draw_map_sheet(pictures: list[MapPicture]) -> bytes:
    """Draw a PNG with a row for each picture."""
    font = ImageFont.load_default(size=TEXT - 3)
    row_height = CELL[1] + TEXT + MARGIN
    sheet = Image.new("RGB", (2 * (CELL[0] + MARGIN) + MARGIN, row_height * len(pictures) + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for i, picture in enumerate(pictures):
        y = MARGIN + i * row_height
        draw.text((MARGIN, y - 2), picture.title, "black", font)
        boxed = with_boxes(with_boxes(picture.pixels, picture.truth, TRUTH), picture.boxes, PREDICTED)
        cells = [boxed, picture.pixels if picture.heatmap is None else overlay(picture.pixels, picture.heatmap)]
        for column, cell in enumerate(cells):
            sheet.paste(fit(cell, *CELL), (MARGIN + column * (CELL[0] + MARGIN), y + TEXT))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def overlay(pixels: NDArray[np.uint8], heatmap: NDArray) -> NDArray[np.uint8]:
    """Blend an image [height, width, 3] with the colours of a map [height, width] in 0..1."""
    import matplotlib

    colours = matplotlib.colormaps["turbo"](np.clip(heatmap, 0, 1))[..., :3] * 255
    return (0.5 * pixels + 0.5 * colours).astype(np.uint8)


def with_boxes(pixels: NDArray[np.uint8], boxes: ArrayLike, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Draw the outlines of boxes [n, 4] of left, top, right, bottom into a copy of an image."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    draw = ImageDraw.Draw(image)
    for box in np.asarray(boxes, float).reshape(-1, 4).tolist():
        draw.rectangle(box, outline=colour, width=max(1, max(image.size) // 150))
    return np.asarray(image)
