"""The table of results: a row per image, the same schema in every file of a run; and what the stages hand on."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

METADATA_KEY = b"segpipe"
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # a PNG, as Hugging Face's data sets have it

# What an actor of every kind hands on: a row per image of the shard, in the plan's order.
PREDICTED = pa.schema(
    [
        ("image_id", pa.string()),
        ("shard", pa.int32()),
        ("position", pa.int64()),
        ("error_stage", pa.string()),
        ("error_class", pa.string()),
        ("error_message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("orientation", pa.int32()),  # EXIF's, of the stored pixels
        ("t_fetch_ms", pa.float32()),
        ("t_decode_ms", pa.float32()),
        ("t_infer_ms", pa.float32()),
    ]
)


def images_schema(own: list[pa.Field], *, pictures: Sequence[str], run: dict[str, Any]) -> pa.Schema:
    """The schema of `images`.

    Args:
        own: columns of the kind of run.
        pictures: those of them that hold PNGs.
        run: kept in the schema's metadata under `segpipe`: run id, configuration, model fingerprint, classes.
    """
    fields = [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # ok | error
        pa.field("error_stage", pa.string()),  # fetch | decode | predict | crf | describe
        pa.field("error_class", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("width", pa.int32()),  # of the stored pixels, as are masks and boxes
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),  # of the encoded image
        pa.field("etag", pa.string()),
        *own,
        pa.field("t_fetch_ms", pa.float32()),
        pa.field("t_decode_ms", pa.float32()),
        pa.field("t_infer_ms", pa.float32()),
        pa.field("shard", pa.int32(), nullable=False),
    ]
    # Hugging Face's data sets show pictures where a schema says this.
    shown = {"info": {"features": {name: {"_type": "Image"} for name in pictures}}}
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(run), b"huggingface": json.dumps(shown)})


def metadata_of(schema: pa.Schema) -> dict[str, Any]:
    """What `images_schema` was given as `run`."""
    return json.loads(schema.metadata[METADATA_KEY])


def compression(schema: pa.Schema) -> dict[str, str]:
    """Zstandard for every column but those of PNGs, which are compressed already."""
    leaves = [path for field in schema for path in _leaves(field, field.name)]
    return {path: "none" if path.endswith(".bytes") else "zstd" for path in leaves}


def _leaves(field: pa.Field, path: str) -> list[str]:
    if pa.types.is_struct(field.type):
        return [leaf for inner in field.type for leaf in _leaves(inner, f"{path}.{inner.name}")]
    if pa.types.is_list(field.type):
        return _leaves(field.type.value_field, f"{path}.list.element")
    return [path]
