"""Self-contained HTML pages without scripts: the page of a bulk run, and the elements of other pages."""

import base64
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1040px; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: left; overflow-wrap: anywhere; }
img { max-width: 100%; }
"""


def draw_page(
    *,
    run_id: str,
    facts: dict[str, Any],
    tables: "dict[str, pa.Table]",
    errors: list[dict[str, Any]],
    sheet: bytes,
    caption: str,
    charts: Mapping[str, bytes],
) -> bytes:
    """Build the page of a bulk run, in UTF-8.

    Args:
        run_id: Name of the run, which is the title.
        facts: Names and values of the facts at the top.
        tables: Tables by heading.
        errors: Some of the error rows.
        sheet: PNG of the picture sheet; empty for none.
        caption: Description of the picture sheet.
        charts: PNGs by heading.
    """
    parts = [f"<h1>{escape(run_id)}</h1>", table(["", ""], [[k, v] for k, v in facts.items()])]
    for heading, content in tables.items():
        rows = [[format_cell(value) for value in row.values()] for row in content.to_pylist()]
        parts += [f"<h2>{escape(heading)}</h2>", table(content.column_names, rows)]
    for heading, png in charts.items():
        parts += [f"<h2>{escape(heading)}</h2>", picture(png, heading)]
    if errors:
        rows = [[e["image_id"], e["error_stage"], e["error_class"], e["error_message"]] for e in errors]
        parts += ["<h2>Errors</h2>", table(["image", "stage", "class", "message"], rows)]
    if sheet:
        parts += ["<h2>Pictures</h2>", picture(sheet, caption)]
    return page(run_id, parts)


def page(title: str, parts: list[str]) -> bytes:
    """Build a page from HTML elements, in UTF-8."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'.encode()


def picture(png: bytes, description: str) -> str:
    """Build an element with an embedded PNG."""
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def format_cell(value: Any) -> str:
    """Format a value for a table; None means undefined."""
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def table(headings: list[str], rows: list[list[Any]]) -> str:
    """Build a table; the texts are escaped."""
    head = "".join(f"<th>{escape(h)}</th>" for h in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(v))}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
