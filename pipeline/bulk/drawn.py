"""What the pictures of all kinds of runs have in common."""

from typing import NamedTuple

from pipeline.report.blocks import Gallery

EACH = 6  # pictures in a group
SHEET_ROWS = 8
SEED = 0  # of the random group, so that a page that is built again shows the same images


class Drawn(NamedTuple):
    """The pictures of a run.

    Attributes:
        gallery: Gallery of its page.
        sheet: Some of these images as a PNG; empty for none.
    """

    gallery: Gallery
    sheet: bytes
