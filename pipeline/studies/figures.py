"""Figures as PNG and as SVG."""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 110


def png_and_svg(figure: Figure) -> tuple[bytes, bytes]:
    """Return a figure as PNG and as SVG."""
    FigureCanvasAgg(figure)
    images = []
    for form in ("png", "svg"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, dpi=DPI)
        images.append(buffer.getvalue())
    return images[0], images[1]
