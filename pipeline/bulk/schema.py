"""The table of results: a row per image, the same schema in every file of a run; and what the stages hand on."""

import json
from typing import Any

import pyarrow as pa

from pipeline.classes import Classes

METADATA_KEY = b"segpipe"
# Hugging Face's data sets show the masks as pictures where a schema says this.
_HUGGING_FACE = {"info": {"features": {"mask": {"_type": "Image"}}}}

# What an actor hands on: a row per image of the shard, in the plan's order. `labels` holds the bytes of the
# label map [height, width] on the stored pixels, of the type that `label_dtype` names. With a CRF to come, `pixels`
# holds those of the upright image, uint8 RGB, and `scores` the float16 score map; without, these are null.
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
        ("labels", pa.large_binary()),
        ("label_dtype", pa.string()),
        ("orientation", pa.int32()),
        ("pixels", pa.large_binary()),
        ("scores", pa.large_binary()),
        ("score_shape", pa.list_(pa.int32())),
        ("stride", pa.int32()),
        ("mean_confidence", pa.float32()),
        ("mean_entropy", pa.float32()),
        ("t_fetch_ms", pa.float32()),
        ("t_decode_ms", pa.float32()),
        ("t_infer_ms", pa.float32()),
    ]
)

# What the writer gets: beside the refined labels the network's, of the same type; pixels and scores end here.
REFINED = pa.schema(
    [field for field in PREDICTED if field.name not in ("pixels", "scores", "score_shape", "stride")]
    + [("raw_labels", pa.large_binary()), ("crf_changed_px", pa.int32()), ("t_crf_ms", pa.float32())]
)

CONFUSION = pa.list_(pa.struct([("gt", pa.int16()), ("pred", pa.int16()), ("px", pa.int32())]))


def images_schema(classes: Classes, *, labelled: bool, crf: bool, run: dict[str, Any]) -> pa.Schema:
    """The schema of `images`.

    Args:
        classes: give a column `px_<class>` each.
        labelled: with the columns of ground truth.
        crf: with the columns of a CRF; with ground truth also those of the masks before it, `…_raw`.
        run: kept in the schema's metadata under `segpipe`: run id, configuration, model fingerprint, classes.
    """
    fields = [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # ok | error
        pa.field("error_stage", pa.string()),  # fetch | decode | predict | crf
        pa.field("error_class", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("width", pa.int32()),  # of the stored pixels, as is the mask
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),  # of the encoded image
        pa.field("etag", pa.string()),
        pa.field("mask", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        *(pa.field(f"px_{slug}", pa.int32()) for slug in classes.slugs),
        pa.field("mean_confidence", pa.float32()),
        pa.field("mean_entropy", pa.float32()),
        pa.field("t_fetch_ms", pa.float32()),
        pa.field("t_decode_ms", pa.float32()),
        pa.field("t_infer_ms", pa.float32()),
        *([pa.field("t_crf_ms", pa.float32()), pa.field("crf_changed_px", pa.int32())] if crf else []),
        pa.field("shard", pa.int32(), nullable=False),
    ]
    if labelled:
        counts = pa.list_(pa.int32())
        fields += [
            pa.field("label_uri", pa.string()),
            pa.field("label_error", pa.string()),
            pa.field("tp", counts),
            pa.field("gt", counts),
            pa.field("pred", counts),
            pa.field("ignored_px", pa.int32()),
            pa.field("invalid_label_px", pa.int32()),
            pa.field("confusion", CONFUSION),
        ]
        if crf:
            fields += [pa.field("tp_raw", counts), pa.field("pred_raw", counts), pa.field("confusion_raw", CONFUSION)]
    metadata = {METADATA_KEY: json.dumps(run), b"huggingface": json.dumps(_HUGGING_FACE)}
    return pa.schema(fields, metadata=metadata)


def metadata_of(schema: pa.Schema) -> dict[str, Any]:
    """What `images_schema` was given as `run`."""
    return json.loads(schema.metadata[METADATA_KEY])


def compression(schema: pa.Schema) -> dict[str, str]:
    """Zstandard for every column but the masks: PNG is compressed already."""
    return {path: "none" if path == "mask.bytes" else "zstd" for path in _leaves(schema)}


def _leaves(schema: pa.Schema) -> list[str]:
    paths = []
    for field in schema:
        if pa.types.is_struct(field.type):
            paths += [f"{field.name}.{inner.name}" for inner in field.type]
        elif field.type == CONFUSION:
            paths += [f"{field.name}.list.element.{inner.name}" for inner in field.type.value_type]
        elif pa.types.is_list(field.type):
            paths.append(f"{field.name}.list.element")
        else:
            paths.append(field.name)
    return paths
