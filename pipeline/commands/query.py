"""Query the results of a bulk run in SQL, by DuckDB: views hide files, shards and rows that newer runs superseded.

Without SQL, the views and their columns are listed. A query is read only, and sees no files but those of the run.

Examples:
    segpipe query s3://masks/run_id=2026-11-26 "SELECT class, avg(share) FROM classes GROUP BY class"
    segpipe query s3://masks --all-runs "FROM errors" --output errors.csv
    segpipe query runs
"""

import shlex
import sys

from pipeline import cli
from pipeline.query.config import QueryConfig

CONFIG = QueryConfig
COMMON = ("sql", "format", "output", "limit", "run_id", "all_runs")


def main(argv: list[str]) -> None:
    """Print the result of a query, or what can be queried."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "", common=COMMON)
    from pipeline.query.output import write_result
    from pipeline.query.overview import format_overview
    from pipeline.query.runs import find_runs
    from pipeline.query.session import QueriedRuns
    from pipeline.storage import redact

    runs, notes = find_runs(config.run, run_id=config.run_id, all_runs=config.all_runs)
    for note in notes:
        print(note, file=sys.stderr)
    session = QueriedRuns(runs, superseded=config.superseded)
    if config.sql is None:
        print(format_overview(session, place=shlex.quote(redact(config.run))))
        return
    schema, batches = session.stream(config.sql)
    write_result(schema, batches, form=config.result_format, limit=config.most_rows, output=config.output)
