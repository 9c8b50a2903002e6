"""Stored tables as relations of DuckDB: local files by its own reader, files of other stores as pyarrow data sets.

DuckDB's httpfs is an extension that it downloads, and its handles for fsspec read far more than they need. A pyarrow
data set takes columns and filters from DuckDB and reads through our own file systems, so that endpoints and credentials
are those of every other command.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.bulk.results import open_images

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_GLOB = re.compile(r"[*?\[\]{}]")  # DuckDB takes paths with them for patterns


class Source:
    """The files of a table of a run.

    Args:
        name: Name under which DuckDB may know the table.
        folder: Folder of the run.
        files: Files below that folder, all of the same schema.
    """

    def __init__(self, name: str, folder: str, files: Sequence[str]):
        self._name, self._folder, self._files = name, folder, files
        self._fs, path = storage.filesystem(folder)
        self._paths = [f"{path}/{file}" for file in files]
        self.local_paths = self._paths if self._is_plain() else []

    def _is_plain(self) -> bool:
        return storage.is_local_filesystem(self._fs) and not any(map(_GLOB.search, self._paths))

    def read_schema(self) -> pa.Schema:
        """Return the schema of the files, from the first one."""
        with storage.friendly_errors(self._folder, "cannot read"), self._fs.open(self._paths[0], "rb") as file:
            return pq.read_schema(file)

    def relation(self, connection: "DuckDBPyConnection") -> str:
        """Return the relation for a FROM clause; files that DuckDB does not read itself are registered."""
        if self.local_paths:
            return f"read_parquet([{', '.join(map(literal, self._paths))}], hive_partitioning = false)"
        with storage.friendly_errors(self._folder, "cannot read"):
            connection.register(self._name, open_images(self._folder, self._files))
        return identifier(self._name)


def literal(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return a name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'
