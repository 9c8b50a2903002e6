"""The table of results of a bulk run: one row per image."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

METADATA_KEY = b"segpipe"
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # a PNG, in the form of Hugging Face's data sets


def results_schema(own: list[pa.Field], *, pictures: Sequence[str], metadata: dict[str, Any]) -> pa.Schema:
    """Return the schema of the table `images`.

    Args:
        own: Columns of the kind of run.
        pictures: Names of those among them that hold PNGs.
        metadata: Kept in the schema's metadata under `segpipe`: run id, configuration, model fingerprint, classes.
    """
    fields = [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # ok | error
        pa.field("error_stage", pa.string()),  # fetch | decode | propose | predict | crf | describe
        pa.field("error_class", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("width", pa.int32()),  # of the stored pixels, on which masks and boxes lie too
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),  # of the encoded image
        pa.field("etag", pa.string()),
        *own,
        pa.field("t_fetch_ms", pa.float32()),
        pa.field("t_decode_ms", pa.float32()),
        pa.field("t_infer_ms", pa.float32()),  # with the dense CRF if the predictor computes it
        pa.field("shard", pa.int32(), nullable=False),
    ]
    # Hugging Face's data sets show a column as pictures if the schema says this.
    features = {"info": {"features": {name: {"_type": "Image"} for name in pictures}}}
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(metadata), b"huggingface": json.dumps(features)})


def metadata_of(schema: pa.Schema) -> dict[str, Any]:
    """Return the metadata that `results_schema` was given."""
    return json.loads(schema.metadata[METADATA_KEY])


def compression(schema: pa.Schema) -> dict[str, str]:
    """Return the codec of each column: Zstandard, but none for PNGs, which are compressed already."""
    leaves = [path for field in schema for path in _leaves(field, field.name)]
    return {path: "none" if path.endswith(".bytes") else "zstd" for path in leaves}


def _leaves(field: pa.Field, path: str) -> list[str]:
    if pa.types.is_struct(field.type):
        return [leaf for inner in field.type for leaf in _leaves(inner, f"{path}.{inner.name}")]
    if pa.types.is_list(field.type):
        return _leaves(field.type.value_field, f"{path}.list.element")
    return [path]
