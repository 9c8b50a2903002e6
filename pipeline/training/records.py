"""The records of a training run beside its bundle: configuration, epochs (a JSON line each), scores of images."""

import json
from typing import Any

from pipeline import __version__, parquet, storage
from pipeline.card import TRAINING
from pipeline.errors import UserError
from pipeline.secrets import redact_all
from pipeline.training.config import TrainerConfig

METRICS = "metrics.jsonl"
VALIDATION = "validation.parquet"
NON_FINITE = "non_finite.json"


def write_records(output: str, records: list[dict[str, Any]]) -> None:
    """Write `metrics.jsonl` as a whole, because object stores cannot append."""
    lines = "".join(json.dumps(record) + "\n" for record in records)
    storage.write_bytes(storage.join(output, METRICS), lines.encode())


def read_records(output: str) -> list[dict[str, Any]]:
    """Read the records of the epochs that are done."""
    url = storage.join(output, METRICS)
    if not storage.exists(url):
        return []
    return [json.loads(line) for line in storage.read_bytes(url).decode().splitlines()]


def write_validation(output: str, rows: list[dict[str, Any]]) -> None:
    """Write `validation.parquet`: one row per validation image, for the epoch whose weights are in the bundle."""
    parquet.write_rows(storage.join(output, VALIDATION), rows)


def read_validation(output: str) -> list[dict[str, Any]]:
    """Read the rows that `write_validation` wrote."""
    return parquet.read_table(storage.join(output, VALIDATION)).to_pylist()


def claim_output(config: TrainerConfig) -> None:
    """Write the configuration to the output, or check that the run in the output has the same one.

    Raises:
        UserError: The output holds another run.
    """
    url = storage.join(config.output, TRAINING)
    options = redact_all(config.deciding_options())
    if storage.exists(url):
        stored = json.loads(storage.read_text(url, noun="training configuration"))["config"]
        differing = sorted(k for k in options.keys() | stored.keys() if options.get(k) != stored.get(k))
        if differing:
            raise UserError(
                f"{storage.redact(config.output)} holds a run with another {', '.join(differing)}; "
                "choose another --output, or remove that run"
            )
        return
    content = {"config": options, "code_version": __version__}
    storage.write_bytes(url, json.dumps(content, indent=2).encode())
