"""The views of a query as SQL: `images`, `classes`, `boxes`, `errors` and `timings`, and the table `runs`."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.data.classes import Classes
from pipeline.query.runs import StoredRun
from pipeline.query.sources import identifier, literal

ALL = "_all"  # rows of all runs, with columns of our own that begin with an underscore
AGES = "_ages"  # table of the runs' names and places in time: run_id, _age
CURRENT = "_current"  # rows without those that newer runs have superseded
COUNTS = ("tp", "gt", "pred", "tp_raw", "pred_raw")


class Rows(NamedTuple):
    """Rows of runs with the same classes and columns: a SELECT of them, their classes, and their schema."""

    select: str
    classes: Classes
    schema: pa.Schema

    @property
    def counts_classes(self) -> bool:
        """Whether the rows have the pixels of each class."""
        return f"px_{self.classes.slugs[0]}" in self.schema.names


def views(rows: Sequence[Rows], *, is_newest: bool) -> Iterator[tuple[str, str]]:
    """Yield the names of views and their SQL; those that begin with an underscore are helpers.

    Args:
        rows: Rows of all runs.
        is_newest: Whether only the row of the newest run counts for each image, by the table `AGES`.
    """
    columns = dict.fromkeys(name for one in rows for name in one.schema.names)
    yield ALL, " UNION ALL BY NAME ".join(map(_with_classes, rows))
    if is_newest:
        aged = f"{ALL} JOIN {AGES} USING (run_id)"
        newest = f"SELECT image_id, max(_age) AS _age FROM {aged} GROUP BY image_id"
        yield CURRENT, f"SELECT {ALL}.* FROM {aged} JOIN ({newest}) USING (image_id, _age)"
    else:
        yield CURRENT, f"SELECT * FROM {ALL}"
    has_counts = any(one.counts_classes for one in rows)
    yield "images", f"SELECT *{' EXCLUDE (_classes)' if has_counts else ''} FROM {CURRENT}"
    if has_counts:
        yield "classes", _classes_of_masks(columns)
    elif "detections" in columns:
        yield "classes", _CLASSES_OF_DETECTIONS
        yield "boxes", f"SELECT run_id, image_id, unnest(detections, max_depth := 2) FROM {CURRENT}"
    elif "classes" in columns:
        yield "classes", f"SELECT run_id, image_id, unnest(classes, max_depth := 2) FROM {CURRENT}"
        yield "boxes", _BOXES_OF_CLASSES
    errors = "run_id, image_id, uri, error_stage, error_class, error_message"
    yield "errors", f"SELECT {errors} FROM {CURRENT} WHERE status = 'error'"
    times = ["run_id", "image_id", "width", "height", *(n for n in columns if n.startswith("t_") and n.endswith("_ms"))]
    yield "timings", f"SELECT {', '.join(map(identifier, times))} FROM {CURRENT}"


def runs_table(runs: Sequence[StoredRun]) -> pa.Table:
    """Return the table `runs`: a row for each run that is queried."""
    rows = [
        {
            "run_id": run.run_id,
            "job": run.about.get("job"),
            "finished": run.about.get("finished"),
            "images": run.about.get("images"),
            "errors": run.about.get("errors"),
            "input": run.about["config"]["images"],
            "model_fingerprint": run.about["model_fingerprint"],
        }
        for run in runs
    ]
    return pa.Table.from_pylist(rows, schema=RUNS_SCHEMA)


RUNS_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("job", pa.string()),
        ("finished", pa.string()),
        ("images", pa.int64()),
        ("errors", pa.int64()),
        ("input", pa.string()),
        ("model_fingerprint", pa.string()),
    ]
)

_CLASSES_OF_DETECTIONS = f"""
SELECT run_id, image_id, d.class, count(*) AS boxes, max(d.score) AS best_score
FROM (SELECT run_id, image_id, unnest(detections) AS d FROM {CURRENT}) GROUP BY ALL"""

_BOXES_OF_CLASSES = f"""
SELECT run_id, image_id, class, probability, unnest(boxes, max_depth := 2)
FROM (SELECT run_id, image_id, c.class, c.probability, c.boxes
      FROM (SELECT run_id, image_id, unnest(classes) AS c FROM {CURRENT}))"""


def _with_classes(one: Rows) -> str:
    """Return the rows, those of masks with a list of their classes."""
    if not one.counts_classes:
        return one.select
    entries = ", ".join(_class_entry(k, name, one) for k, name in enumerate(one.classes.names))
    return f"SELECT *, [{entries}] AS _classes FROM ({one.select})"


def _class_entry(k: int, name: str, one: Rows) -> str:
    values: dict[str, Any] = {"class_index": k, "class": literal(name)}
    values["px"] = identifier(f"px_{one.classes.slugs[k]}")
    values |= {count: f"{count}[{k + 1}]" for count in COUNTS if count in one.schema.names}
    return "{" + ", ".join(f"{literal(key)}: {value}" for key, value in values.items()) + "}"


def _classes_of_masks(columns: dict[str, Any]) -> str:
    counts = "".join(f", c.{name}" for name in COUNTS if name in columns)
    scores = ", c.tp / nullif(c.gt + c.pred - c.tp, 0) AS iou" if "tp" in columns else ""
    if "tp_raw" in columns:
        scores += ", c.tp_raw / nullif(c.gt + c.pred_raw - c.tp_raw, 0) AS iou_raw"
    return f"""
SELECT run_id, image_id, width, height, c.class_index, c.class, c.px, c.px / (width::BIGINT * height) AS share
{counts}{scores}
FROM (SELECT run_id, image_id, width, height, unnest(_classes) AS c FROM {CURRENT} WHERE status = 'ok')"""
