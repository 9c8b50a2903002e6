"""Reading the outputs of a bulk run."""

import pyarrow as pa

from pipeline import storage
from pipeline.bulk.plan import read_manifest
from pipeline.bulk.results import read_file


def the_run(output: str) -> str:
    """Return the folder of the only run below an output."""
    fs, path = storage.filesystem(output)
    (folder,) = [entry for entry in fs.ls(path, detail=False) if "run_id=" in entry]
    return storage.url_of(fs, folder)


def rows_of(run: str) -> pa.Table:
    """Return the rows of a finished run, in the order of its plan."""
    return pa.concat_tables(read_file(run, file["path"]) for file in read_manifest(run)["files"])
