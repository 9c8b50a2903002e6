"""A session of queries over the results of bulk runs, read only: `segpipe query` and `pipeline.open_run` use it."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pyarrow as pa

from pipeline import storage
from pipeline.data.classes import Classes
from pipeline.errors import UserError, one_line
from pipeline.query.runs import StoredRun, find_runs
from pipeline.query.sources import Source, identifier, literal
from pipeline.query.views import AGES, Rows, runs_table, views
from pipeline.threads import in_order

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_STATEMENTS = {"SELECT", "EXPLAIN", "MULTI"}  # MULTI is a PIVOT
_LONGEST = 500  # characters of DuckDB's message
T = TypeVar("T")


class Column(NamedTuple):
    """The name of a column of a view, and its type in DuckDB."""

    name: str
    type: str


class QueriedRuns:
    """The results of one or several bulk runs as views for SQL; see `open_run`.

    Args:
        runs: The runs, the oldest first.
        superseded: Whether rows that newer runs have superseded count, too.

    Attributes:
        runs: The runs.
    """

    def __init__(self, runs: Sequence[StoredRun], *, superseded: bool = False):
        self.runs = runs
        self._connection = _connect(runs, superseded=superseded)

    def sql(self, query: str) -> pa.Table:
        """Return the result of a SELECT statement in DuckDB's SQL.

        Raises:
            UserError: The statement is wrong, or no SELECT.
        """
        schema, batches = self.stream(query)
        return pa.Table.from_batches(batches, schema)

    def rows(self, query: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a result, with PNGs as arrays: masks are int32 [height, width] of class indices.

        Raises:
            UserError: The statement is wrong, or no SELECT.
        """
        from pipeline.data.images import decode_mask

        for batch in self.sql(query).to_batches(max_chunksize=64):
            for row in batch.to_pylist():
                yield {name: decode_mask(value["bytes"]) if _is_png(value) else value for name, value in row.items()}

    def stream(self, query: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Return the schema of a result, and its rows in batches, which end before the next query.

        Raises:
            UserError: The statement is wrong, or no SELECT.
        """
        reader = _friendly(lambda: self._reader(query))

        def batches() -> Iterator[pa.RecordBatch]:
            with reader:
                while (batch := _friendly(functools.partial(next, reader, None))) is not None:
                    yield batch

        return reader.schema, batches()

    def _reader(self, query: str) -> pa.RecordBatchReader:
        statements = self._connection.extract_statements(query)
        if len(statements) != 1 or statements[0].type.name not in _STATEMENTS:
            raise UserError("a query is one SELECT statement: runs are read only")
        return pa.RecordBatchReader.from_stream(self._connection.sql(query))

    def columns(self) -> dict[str, list[Column]]:
        """Return the columns of each view."""
        found: dict[str, list[Column]] = {}
        query = (
            "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY column_index"
        )
        for row in self.sql(query).to_pylist():
            found.setdefault(row["table_name"], []).append(Column(row["column_name"], row["data_type"]))
        return {name: columns for name, columns in found.items() if not name.startswith("_")}


def open_run(
    url: str | os.PathLike, *, run_id: str | None = None, all_runs: bool = False, superseded: bool = False
) -> QueriedRuns:
    """Open the results of a bulk run for SQL, local or on any store.

    Args:
        url: Folder of a run, `OUTPUT/run_id=…`, or the output folder of jobs: then its newest finished run.
        run_id: Name of a run below an output folder.
        all_runs: Take all finished runs below an output folder that are of the newest one's job; of an image that
            several of them hold, only the row of the newest run counts.
        superseded: With `all_runs`, keep the rows that newer runs have superseded.

    Raises:
        UserError: There is no such run, or it cannot be read.
    """
    runs, _ = find_runs(storage.absolute(os.fspath(url)), run_id=run_id, all_runs=all_runs)
    return QueriedRuns(runs, superseded=superseded)


def _connect(runs: Sequence[StoredRun], *, superseded: bool) -> "DuckDBPyConnection":
    """Return a connection that has the views, and can neither read nor write any other file."""
    import duckdb

    connection = duckdb.connect()
    groups = _alike(runs)
    images = [Source(f"_images_{i}", {run.folder: run.files for run in group}) for i, (group, _) in enumerate(groups)]
    names = sorted({name for run in runs for name in run.tables})
    reports = [
        Source(f"_{name}", {run.folder: [run.tables[name]] for run in runs if name in run.tables}, differ=True)
        for name in names
    ]
    allowed = ", ".join(literal(path) for source in images + reports for path in source.local_paths)
    connection.execute("SET python_enable_replacements = false")  # FROM x means no variable of ours
    connection.execute(f"SET allowed_paths = [{allowed}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    rows = [
        Rows(source.relation(connection, schema, group[0].run_id), _classes(group[0]), schema)
        for source, (group, schema) in zip(images, groups, strict=True)
    ]
    ages = {"run_id": [run.run_id for run in runs], "_age": range(len(runs))}
    connection.register(AGES, pa.table({name: list(values) for name, values in ages.items()}))
    for name, query in views(rows, is_newest=len(runs) > 1 and not superseded):
        connection.execute(f"CREATE VIEW {name} AS {query}")
    for name, source in zip(names, reports, strict=True):
        owner = next(run for run in runs if name in run.tables)
        query = source.relation(connection, source.read_schema(), owner.run_id)
        connection.execute(f"CREATE VIEW {identifier(name)} AS {query}")
    connection.register("runs", runs_table(runs))
    return connection


def _alike(runs: Sequence[StoredRun]) -> list[tuple[list[StoredRun], pa.Schema]]:
    """Group runs whose classes and columns are the same."""
    schemas = in_order(lambda run: Source("", {run.folder: run.files}).read_schema().remove_metadata(), runs)
    groups: list[tuple[list[StoredRun], pa.Schema]] = []
    for run, schema in zip(runs, schemas, strict=True):
        for group, common in groups:
            if _classes(group[0]).names == _classes(run).names and common.equals(schema):
                group.append(run)
                break
        else:
            groups.append(([run], schema))
    return groups


def _classes(run: StoredRun) -> Classes:
    return Classes.model_validate(run.about["classes"])


def _friendly(compute: Callable[[], T]) -> T:
    """Return a result; a failure of DuckDB is the user's mistake, in one line."""
    import duckdb

    try:
        return compute()
    except (duckdb.Error, pa.ArrowException) as error:
        message = str(error).partition("\n\nLINE ")[0]
        raise UserError(f"the query failed: {one_line(Exception(message), limit=_LONGEST)}") from None


def _is_png(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"bytes", "path"} and value["bytes"] is not None
