"""The plan of a run: which images, cut into which shards. Stored once; it is what must be accounted for."""

import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import __version__, storage
from pipeline.bulk.config import BulkConfig
from pipeline.bulk.listing import InputImage, list_input
from pipeline.bulk.shards import cut_shards
from pipeline.bundle import Card
from pipeline.data.classes import Classes
from pipeline.errors import UserError

RUN_FOLDER = "_run"
PLAN = f"{RUN_FOLDER}/plan.parquet"
CONFIG = f"{RUN_FOLDER}/config.json"
MANIFEST = "manifest.json"

Truth = Callable[[list[InputImage]], list[str | None]]

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("row", pa.int64()),
        ("bytes", pa.int64()),
        ("etag", pa.string()),
        ("mtime", pa.string()),
        ("truth", pa.string()),  # what is known of the image, as the kind of run has it; null where nothing is
        ("shard", pa.int32()),
    ]
)


def make_plan(config: BulkConfig, truth: Truth) -> pa.Table:
    """List the input, leave out what the configuration excludes, note what is known of each image, cut shards.

    Args:
        config: of the run.
        truth: see `kind.Kind.truth`.

    Returns:
        a row per image in the order of ids, with `SCHEMA`; `shard` counts from 0 without gaps.

    Raises:
        UserError: nothing to do, or a folder that cannot be read.
    """
    found = list_input(config.images)
    if config.since:
        found = _changed_since(found, config.since)
    if config.retry_errors:
        found = _errors_of(found, config.retry_errors)
    columns: dict[str, list[Any]] = {name: list(values) for name, values in _transposed(found).items()}
    columns["truth"] = truth(found)
    columns["shard"] = cut_shards([image.bytes for image in found], config.sharding)
    return pa.table(columns, schema=SCHEMA)


def _transposed(found: list[InputImage]) -> dict[str, tuple[Any, ...]]:
    values = zip(*found, strict=True) if found else [()] * len(InputImage._fields)
    return dict(zip(InputImage._fields, values, strict=True))


def _changed_since(found: list[InputImage], run: str) -> list[InputImage]:
    _require_finished(run)
    before = read_plan(run).select(["image_id", "bytes", "etag", "mtime"]).to_pylist()
    known = {row["image_id"]: (row["bytes"], row["etag"] or row["mtime"]) for row in before}
    return [image for image in found if known.get(image.image_id) != (image.bytes, image.etag or image.mtime)]


def _errors_of(found: list[InputImage], run: str) -> list[InputImage]:
    _require_finished(run)
    failed: set[str] = set()
    for file in read_manifest(run)["files"]:
        data = io.BytesIO(storage.read_bytes(storage.join(run, file["path"])))
        table = pq.read_table(data, columns=["image_id", "status"])
        failed.update(table.filter(pc.field("status") == "error")["image_id"].to_pylist())
    return [image for image in found if image.image_id in failed]


def _require_finished(run: str) -> None:
    if not storage.exists(storage.join(run, MANIFEST)):
        raise UserError(f"{storage.redact(run)} is not a finished run: it has no {MANIFEST}")


def identity(config: BulkConfig, card: Card, classes: Classes) -> dict[str, Any]:
    """All that decides a run's rows besides the images themselves."""
    told = config.what_decides_the_result()
    return {
        # It is stored with every row: a URL may hold a password or a signature.
        "config": {name: storage.redact(value) if isinstance(value, str) else value for name, value in told.items()},
        "model_fingerprint": card.fingerprint,
        "classes": classes.model_dump(mode="json"),
        "code_version": __version__,
    }


def default_run_id(what: dict[str, Any], card: Card) -> str:
    """The same for the same model, input and options, so that the same command finds its run again."""
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    return f"{card.architecture}-{digest[:8]}"


def store_plan(run: str, plan: pa.Table, what: dict[str, Any]) -> None:
    """Write the plan, then the configuration: where that lies, the plan is whole."""
    buffer = io.BytesIO()
    pq.write_table(plan, buffer, compression="zstd")
    storage.write_bytes(storage.join(run, PLAN), buffer.getvalue())
    storage.write_bytes(storage.join(run, CONFIG), json.dumps(what, indent=2).encode())


def read_plan(run: str) -> pa.Table:
    """The plan of a run."""
    url = storage.join(run, PLAN)
    with storage.friendly_errors(url, "cannot read the plan"):
        return pq.read_table(io.BytesIO(storage.read_bytes(url)))


def existing_plan(run: str, what: dict[str, Any]) -> pa.Table | None:
    """The plan of the run that lies there, or None.

    Raises:
        UserError: it was made with another model or other options.
    """
    url = storage.join(run, CONFIG)
    if not storage.exists(url):
        return None
    theirs = json.loads(storage.read_text(url, what="run's configuration"))
    if theirs != what:
        mine = what["config"]
        differing = sorted(k for k in mine if theirs["config"].get(k) != mine[k])
        differing += [k for k in what if k != "config" and theirs.get(k) != what[k]]
        raise UserError(
            f"{storage.redact(run)} was made with another {', '.join(differing)}; choose another --run-id or --output"
        )
    return read_plan(run)


def read_manifest(run: str) -> dict[str, Any]:
    """The manifest of a finished run.

    Raises:
        UserError: there is none.
    """
    _require_finished(run)
    return json.loads(storage.read_text(storage.join(run, MANIFEST), what="manifest"))
