"""Stored tables as relations of DuckDB: local files by its own reader, files of other stores as pyarrow data sets.

DuckDB's httpfs is an extension that it downloads, and its handles for fsspec read far more than they need. A pyarrow
data set takes columns and filters from DuckDB and reads through our own file systems, so that endpoints and credentials
are those of every other command.
"""

import re
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.dataset import Dataset, dataset, partitioning

from pipeline import storage
from pipeline.bulk.results import exact_reads

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_PARTITIONED = "hive_partitioning = true, hive_types_autocast = false"
_GLOB = re.compile(r"[*?\[\]{}]")  # DuckDB takes paths with them for patterns


class Source:
    """Files of one or several runs.

    Args:
        name: Name under which DuckDB may know the table.
        files: Paths of files by the folder of their run. Several folders are named `run_id=…` and lie side by side.
        differ: Whether the columns of the runs may differ: then DuckDB opens all files before it begins.
    """

    def __init__(self, name: str, files: dict[str, list[str]], *, differ: bool = False):
        self._options = _PARTITIONED + (", union_by_name = true" if differ else "")
        self._name, self._folder = name, next(iter(files))
        self._is_partitioned = len(files) > 1
        self._fs, _ = storage.filesystem(self._folder)
        self._paths = [f"{storage.filesystem(folder)[1]}/{file}" for folder, some in files.items() for file in some]
        is_plain = storage.is_local_filesystem(self._fs) and not any(map(_GLOB.search, self._paths))
        self.local_paths = self._paths if is_plain else []

    def read_schema(self) -> pa.Schema:
        """Return the schema of the files, from the last one."""
        with storage.friendly_errors(self._folder, "cannot read"), self._fs.open(self._paths[-1], "rb") as file:
            return pq.read_schema(file)

    def relation(self, connection: "DuckDBPyConnection", schema: pa.Schema, run_id: str) -> str:
        """Return a SELECT of the columns and `run_id`; files that DuckDB does not read itself are registered.

        Args:
            connection: The connection.
            schema: Columns of the files; those that a file lacks are null.
            run_id: Name of the run, if there is one.
        """
        if self.local_paths:
            paths = ", ".join(map(literal, self._paths))
            table = f"read_parquet([{paths}], {self._options if self._is_partitioned else 'hive_partitioning = false'})"
        else:
            with storage.friendly_errors(self._folder, "cannot read"):
                connection.register(self._name, self._dataset(schema))
            table = identifier(self._name)
        run = "run_id" if self._is_partitioned else f"{literal(run_id)} AS run_id"
        return f"SELECT {run}, {', '.join(map(identifier, schema.names))} FROM {table}"

    def _dataset(self, schema: pa.Schema) -> Dataset:
        files = {"source": self._paths, "filesystem": exact_reads(self._fs), "format": "parquet"}
        if not self._is_partitioned:
            return dataset(**files)
        run_id = pa.field("run_id", pa.string())
        by_run = partitioning(pa.schema([run_id]), flavor="hive")
        return dataset(**files, schema=schema.append(run_id), partitioning=by_run)


def literal(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return a name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'
