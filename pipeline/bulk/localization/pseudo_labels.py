"""Label maps for training a segmentation network, made from a localization run: `segpipe pseudo-labels`."""

import posixpath
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import yaml

from pipeline import faults, parquet, storage
from pipeline.bulk.localization.config import PseudoLabelsConfig
from pipeline.bulk.plan import read_manifest
from pipeline.bulk.results import RowGroup, open_images, read_group, row_groups
from pipeline.bulk.schema import metadata_of
from pipeline.bulk.table_input import read_image_bytes
from pipeline.data.classes import Classes, with_background
from pipeline.data.image_ids import safe_path
from pipeline.errors import UserError

LABELS = "labels"
CLASSES = "classes.yaml"
ROWS = "pseudo_labels.parquet"
IGNORE_INDEX = 255
CHUNK = 32  # images in a task
SAME_PLACE = "the name of another image differs in the suffix only, and label maps are paired by the rest; rename one"

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("status", pa.string()),  # ok | error
        ("error", pa.string()),
        ("label", pa.string()),  # path of the label map below the output
        ("foreground", pa.float32()),  # share of the pixels
        ("ignored", pa.float32()),  # share of the pixels
    ]
)


def write_pseudo_labels(config: PseudoLabelsConfig) -> pa.Table:
    """Write a label map for each image of the run, with the classes that it is known to show, or else those found.

    If it is killed half-way it can be done again: the same label maps are written.

    Returns:
        One row per image of the run, with `SCHEMA`; it is stored as well.

    Raises:
        UserError: The run is not finished, or has no heatmaps.
    """
    files = [file["path"] for file in read_manifest(config.run)["files"]]
    images = open_images(config.run, files)
    if (
        "classes" not in images.schema.names
        or images.schema.field("classes").type.value_type.get_field_index("heatmap") < 0
    ):
        raise UserError(f"{storage.redact(config.run)} has no heatmaps; expected a run of segpipe localize --heatmaps")
    storage.check_writable(config.output)
    model_classes = Classes(**metadata_of(images.schema)["classes"])
    classes = with_background(model_classes)
    if len(classes) > IGNORE_INDEX:
        raise UserError(
            f"label maps have 8 bits: at most {IGNORE_INDEX - 1} classes, and the model has {len(model_classes)}"
        )
    places = Counter(map(_place, images.to_table(columns=["image_id"])["image_id"].to_pylist()))
    shared = frozenset(place for place, count in places.items() if count > 1)
    labeller = Labeller(config, classes, known="known" in images.schema.names, shared=shared)
    calls = [(group, first) for group in row_groups(config.run, files) for first in range(0, group.rows, CHUNK)]
    from pipeline import cluster

    cluster.connect()
    sizes = [min(CHUNK, group.rows - first) for group, first in calls]
    rows = [row for chunk in cluster.map_tasks(labeller.label, calls, sizes=sizes, title="labelling") for row in chunk]
    content = {"names": list(classes.names), "colours": classes.palette.tolist(), "ignore_index": IGNORE_INDEX}
    storage.write_bytes(storage.join(config.output, CLASSES), yaml.safe_dump(content, sort_keys=False).encode())
    rows.sort(key=lambda row: row["image_id"])
    return parquet.write_rows(storage.join(config.output, ROWS), rows, SCHEMA)


class Labeller:
    """Makes the label maps of some rows of a run.

    Args:
        config: Options of the job.
        classes: Classes of the label maps: the background, then the classifier's.
        known: Whether the run knows which classes its images show.
        shared: Files of label maps that belong to several images.
    """

    def __init__(self, config: PseudoLabelsConfig, classes: Classes, *, known: bool, shared: frozenset[str]):
        self._config = config
        self._index = {name: k for k, name in enumerate(classes.names)}
        self._known = known
        self._shared = shared
        # Ignored pixels are white; values between the classes and the ignore index do not occur.
        self._palette = np.full((IGNORE_INDEX + 1, 3), 255, np.uint8)
        self._palette[: len(classes)] = classes.palette

    def label(self, group: RowGroup, first: int) -> list[dict[str, Any]]:
        """Write the label maps of up to `CHUNK` rows of a row group, and return their rows of the table."""
        columns = ["image_id", "uri", "status", "error_message", "classes", *(["known"] if self._known else [])]
        rows = read_group(self._config.run, group, columns)
        return [self._label(row) for row in rows[first : first + CHUNK]]

    def _label(self, row: dict[str, Any]) -> dict[str, Any]:
        base = {"image_id": row["image_id"]}
        if row["status"] != "ok":
            return base | {"status": "error", "error": row["error_message"]}
        if _place(row["image_id"]) in self._shared:
            return base | {"status": "error", "error": SAME_PLACE}
        try:
            return base | self._write(row) | {"status": "ok"}
        except Exception as error:  # whatever it is, it belongs to this image
            return base | {"status": "error", "error": faults.explain(error)}

    def _write(self, row: dict[str, Any]) -> dict[str, Any]:
        from pipeline.cam import activation
        from pipeline.cam.masks import pseudo_labels
        from pipeline.data.images import decode_heatmap, decode_image, encode_mask, from_upright

        entries = [c for c in row["classes"] if (c["class"] in row["known"] if self._known else c["found"])]
        decoded = decode_image(read_image_bytes(row["uri"]))
        size = decoded.pixels.shape[:2]
        maps = [decode_heatmap(c["heatmap"]["bytes"], c["scale"], c["offset"]) for c in entries]
        normalised = [activation.heatmaps(raw[None], size) for raw in maps]
        labels = pseudo_labels(
            np.concatenate(normalised or [np.zeros((0, *size), np.float32)]),
            sure_foreground=self._config.sure_foreground,
            sure_background=self._config.sure_background,
            pixels=decoded.pixels if self._config.crf else None,
            crf=self._config.crf_params,
        )
        indices = np.arange(IGNORE_INDEX + 1, dtype=np.uint8)
        indices[1 : len(entries) + 1] = [self._index[c["class"]] for c in entries]
        stored = from_upright(indices[labels], decoded.orientation)
        place = _place(row["image_id"])
        storage.write_bytes(storage.join(self._config.output, place), encode_mask(stored, self._palette))
        return {
            "label": place,
            "foreground": float(np.mean((stored > 0) & (stored != IGNORE_INDEX))),
            "ignored": float(np.mean(stored == IGNORE_INDEX)),
        }


def _place(image_id: str) -> str:
    """Return the file of an image's label map below the output."""
    return posixpath.join(LABELS, posixpath.splitext(safe_path(image_id))[0] + ".png")


def format_pseudo_labels(table: pa.Table, output: str) -> str:
    """Describe what was written, for the terminal."""
    good = table.filter(pa.compute.equal(table["status"], "ok"))
    lines = [f"{good.num_rows:,} label maps, {table.num_rows - good.num_rows:,} errors"]
    if good.num_rows:
        shares = [pa.compute.mean(good[name]).as_py() for name in ("foreground", "ignored")]
        lines.append(f"foreground {shares[0]:.1%} of the pixels, ignored {shares[1]:.1%}")
    folder = storage.redact(output)
    lines += [f"labels:  {folder}/{LABELS}", f"classes: {folder}/{CLASSES}", f"rows:    {folder}/{ROWS}"]
    return "\n".join(lines)
