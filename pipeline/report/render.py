"""Pages as self-contained HTML: inline styles and script, embedded pictures, and no access to any network."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report.blocks import MOST_TEXT, Page
from pipeline.report.svg import draw_chart

TEMPLATES = Path(__file__).parent / "templates"


def render(page: Page) -> bytes:
    """Return a page in UTF-8. Every text in it is escaped.

    A content security policy admits only the page's own script, by its hash, and embedded pictures.
    """
    script = (TEMPLATES / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = _environment().get_template("page.html").render(page=page, script=Markup(script), digest=digest)
    return html.encode("utf-8", "backslashreplace")  # surrogates of names that are not UTF-8


def format_value(value: Any) -> str:
    """Format a value for people; None and NaN mean undefined."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value)
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 1]}…"


def embed(data: bytes) -> str:
    """Return a PNG or JPEG as a data URI."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"format": format_value, "embed": embed, "drawn": draw_chart}
    return environment
