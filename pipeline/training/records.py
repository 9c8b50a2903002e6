"""What a training run leaves beside its bundle: its configuration, a line of JSON per epoch, the images' scores."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import __version__, storage
from pipeline.errors import UserError
from pipeline.training.config import RunConfig

CONFIG = "training.json"
METRICS = "metrics.jsonl"
VALIDATION = "validation.parquet"
NON_FINITE = "non_finite.json"


def write_records(output: str, records: list[dict[str, Any]]) -> None:
    """Write `metrics.jsonl`, whole: object stores cannot append."""
    lines = "".join(json.dumps(record) + "\n" for record in records)
    storage.write_bytes(storage.join(output, METRICS), lines.encode())


def read_records(output: str) -> list[dict[str, Any]]:
    """The epochs that are done, or none."""
    url = storage.join(output, METRICS)
    if not storage.exists(url):
        return []
    return [json.loads(line) for line in storage.read_bytes(url).decode().splitlines()]


def write_validation(output: str, rows: list[dict[str, Any]]) -> None:
    """Write `validation.parquet`: a row per validation image, of the epoch whose weights the bundle has."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    storage.write_bytes(storage.join(output, VALIDATION), buffer.getvalue())


def read_validation(output: str) -> list[dict[str, Any]]:
    """What `write_validation` wrote."""
    return pq.read_table(io.BytesIO(storage.read_bytes(storage.join(output, VALIDATION)))).to_pylist()


def claim_output(config: RunConfig) -> None:
    """Write the configuration to the output, or check that the run there is this one.

    Raises:
        UserError: another run lies there.
    """
    url = storage.join(config.output, CONFIG)
    mine = config.what_decides_the_result()
    if storage.exists(url):
        theirs = json.loads(storage.read_text(url, what="training configuration"))["config"]
        differing = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
        if differing:
            raise UserError(
                f"{storage.redact(config.output)} holds a run with another {', '.join(differing)}; "
                "choose another --output, or remove that one"
            )
        return
    content = {"config": mine, "code_version": __version__}
    storage.write_bytes(url, json.dumps(content, indent=2).encode())
