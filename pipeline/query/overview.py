"""What can be queried in a run, as text: the views with their columns, and examples."""

from pipeline.query.descriptions import VIEWS, describe_column
from pipeline.query.session import QueriedRuns

ORDER = list(VIEWS)
EXAMPLES = {
    "share": [
        "SELECT class, avg(share) AS share FROM classes GROUP BY class ORDER BY share DESC",
        "SELECT image_id, mean_entropy FROM images WHERE status = 'ok' ORDER BY mean_entropy DESC LIMIT 20",
    ],
    "best_score": [
        "SELECT class, count(*) AS boxes FROM boxes WHERE score > 0.5 GROUP BY class ORDER BY boxes DESC",
        "SELECT image_id, class, score FROM boxes ORDER BY score DESC LIMIT 20",
    ],
    "map_max": [
        "SELECT class, count(*) AS images FROM classes WHERE found GROUP BY class ORDER BY images DESC",
        "SELECT image_id, top_class, top_probability FROM images ORDER BY top_probability LIMIT 20",
    ],
    "": ["SELECT status, count(*) AS images FROM images GROUP BY status"],
}
ERRORS = "SELECT error_stage, error_class, count(*) AS images FROM errors GROUP BY ALL ORDER BY images DESC"


def format_overview(runs: QueriedRuns, *, place: str) -> str:
    """List the views of some runs with their columns, and example queries.

    Args:
        runs: The runs.
        place: What the user named, for the examples.
    """
    columns = runs.columns()
    lines = []
    for view in sorted(columns, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER)):
        names = columns[view]
        lines.append(f"{view}: {VIEWS.get(view, 'a report')}")
        widths = max(len(column.name) for column in names), min(24, max(len(column.type) for column in names))
        for column in names:
            kind = column.type if len(column.type) <= widths[1] else column.type[: widths[1] - 1] + "…"
            text = f"  {column.name:<{widths[0]}}  {kind:<{widths[1]}}  {describe_column(view, column.name)}"
            lines.append(text.rstrip())
        lines.append("")
    of_classes = {column.name for column in columns.get("classes", [])}
    kind = next((name for name in EXAMPLES if name in of_classes), "")
    lines.append("Examples:")
    lines += [f'  segpipe query {place} "{query}"' for query in [*EXAMPLES[kind], ERRORS]]
    return "\n".join(lines)
