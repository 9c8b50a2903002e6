"""From a localization run to label maps that a segmentation network can be trained on: `jobs/pseudo_labels.py`."""

import io
import json
import posixpath
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
from tqdm import tqdm

from pipeline import cluster, storage
from pipeline.bulk.plan import read_manifest
from pipeline.bulk.results import RowGroup, open_images, read_group, row_groups
from pipeline.bulk.schema import metadata_of
from pipeline.bulk.segmentation.gallery import image_bytes
from pipeline.cam import activation
from pipeline.cam.masks import IGNORE, IRN_CRF, pseudo_labels
from pipeline.crf import CRFParams
from pipeline.data.classes import Classes, with_background
from pipeline.data.images import decode_heatmap, decode_image, encode_mask, from_upright
from pipeline.errors import UserError
from pipeline.storage import Url

LABELS = "labels"
CLASSES = "classes.yaml"
ROWS = "pseudo_labels.parquet"
CHUNK = 32  # images that a task does

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("status", pa.string()),  # ok | error
        ("error", pa.string()),
        ("label", pa.string()),  # below the output
        ("foreground", pa.float32()),  # shares of the image
        ("ignored", pa.float32()),
    ]
)


class PseudoLabelsConfig(BaseModel):
    """The options of `jobs/pseudo_labels.py`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Url = Field(description="folder of a finished run of jobs/localize.py with heatmaps, of the training images")
    output: Url = Field(description="folder for labels/, classes.yaml and a table of the images")
    sure_foreground: float = Field(default=0.3, ge=0, le=1, description="of a map's maximum: above it is foreground")
    sure_background: float = Field(default=0.05, ge=0, le=1, description="below it is background; between is ignored")
    crf: bool = Field(default=True, description="move the borders to the image's by a dense CRF")
    crf_params: CRFParams = Field(default=IRN_CRF, description="of the CRF; IRN's")

    @model_validator(mode="after")
    def _ordered(self) -> "PseudoLabelsConfig":
        if self.sure_background > self.sure_foreground:
            raise ValueError("--sure_background is above --sure_foreground")
        return self


def write_pseudo_labels(config: PseudoLabelsConfig) -> pa.Table:
    """Make a label map of each image of the run: of the classes that it is known to show, or else those found.

    Killed half-way, it can be done again: the same label maps are written.

    Returns:
        a row per image of the run, with `SCHEMA`; also stored.

    Raises:
        UserError: the run is not finished, or has no heatmaps.
    """
    files = [file["path"] for file in read_manifest(config.run)["files"]]
    images = open_images(config.run, files)
    if (
        "classes" not in images.schema.names
        or images.schema.field("classes").type.value_type.get_field_index("heatmap") < 0
    ):
        raise UserError(
            f"{storage.redact(config.run)} has no heatmaps; it must be of jobs/localize.py, with --heatmaps"
        )
    storage.check_writable(config.output)
    of_model = Classes(**metadata_of(images.schema)["classes"])
    classes = with_background(of_model)
    if len(classes) > IGNORE:
        raise UserError(f"label maps have 8 bits: at most {IGNORE - 1} classes, and the model has {len(of_model)}")
    work = [
        {"group": json.dumps(group), "first": first}
        for group in row_groups(config.run, files)
        for first in range(0, group.rows, CHUNK)
    ]
    cluster.connect()
    ray.data.DataContext.get_current().enable_progress_bars = False
    labeller = Labeller(config, classes, known="known" in images.schema.names)
    done = ray.data.from_items(work, override_num_blocks=len(work)).map(labeller)
    rows: list[dict[str, Any]] = []
    total = images.count_rows()
    with tqdm(total=total, unit="images", leave=False, disable=not sys.stderr.isatty()) as bar:
        for part in done.iter_rows():
            rows += json.loads(part["rows"])
            bar.update(len(rows) - bar.n)
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["image_id"]), schema=SCHEMA)
    content = {"names": list(classes.names), "colours": classes.palette.tolist(), "ignore_index": IGNORE}
    storage.write_bytes(storage.join(config.output, CLASSES), yaml.safe_dump(content, sort_keys=False).encode())
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write_bytes(storage.join(config.output, ROWS), buffer.getvalue())
    return table


class Labeller:
    """Makes the label maps of some rows of a run, as a task.

    Args:
        config: of the job.
        classes: of the label maps: the background, then the classifier's.
        known: whether the run knows which classes its images show.
    """

    def __init__(self, config: PseudoLabelsConfig, classes: Classes, *, known: bool):
        self._config = config
        self._index = {name: k for k, name in enumerate(classes.names)}
        self._known = known
        # Ignored pixels are white; of the values between there are none.
        self._palette = np.full((IGNORE + 1, 3), 255, np.uint8)
        self._palette[: len(classes)] = classes.palette

    def __call__(self, work: dict[str, Any]) -> dict[str, str]:
        columns = ["image_id", "uri", "status", "error_message", "classes", *(["known"] if self._known else [])]
        rows = read_group(self._config.run, RowGroup(*json.loads(work["group"])), columns)
        return {"rows": json.dumps([self._label(row) for row in rows[work["first"] : work["first"] + CHUNK]])}

    def _label(self, row: dict[str, Any]) -> dict[str, Any]:
        base = {"image_id": row["image_id"]}
        if row["status"] != "ok":
            return base | {"status": "error", "error": row["error_message"]}
        try:
            return base | self._write(row) | {"status": "ok"}
        except Exception as error:  # whatever it is, it belongs to this image
            return base | {"status": "error", "error": storage.explain(error)}

    def _write(self, row: dict[str, Any]) -> dict[str, Any]:
        shown = [c for c in row["classes"] if (c["class"] in row["known"] if self._known else c["found"])]
        decoded = decode_image(image_bytes(row["uri"]))
        size = decoded.pixels.shape[:2]
        maps = [decode_heatmap(c["heatmap"]["bytes"], c["scale"], c["offset"]) for c in shown]
        heatmaps = np.concatenate(
            [activation.heatmaps(raw[None], size) for raw in maps] or [np.zeros((0, *size), np.float32)]
        )
        labels = pseudo_labels(
            heatmaps,
            sure_foreground=self._config.sure_foreground,
            sure_background=self._config.sure_background,
            pixels=decoded.pixels if self._config.crf else None,
            crf=self._config.crf_params,
        )
        of_class = np.arange(IGNORE + 1, dtype=np.uint8)
        of_class[1 : len(shown) + 1] = [self._index[c["class"]] for c in shown]
        stored = from_upright(of_class[labels], decoded.orientation)
        place = posixpath.join(LABELS, posixpath.splitext(row["image_id"])[0] + ".png")
        storage.write_bytes(storage.join(self._config.output, place), encode_mask(stored, self._palette))
        return {
            "label": place,
            "foreground": float(np.mean((stored > 0) & (stored != IGNORE))),
            "ignored": float(np.mean(stored == IGNORE)),
        }


def describe(table: pa.Table, output: str) -> str:
    """What was made, for the terminal."""
    good = table.filter(pa.compute.equal(table["status"], "ok"))
    lines = [f"{good.num_rows:,} label maps, {table.num_rows - good.num_rows:,} errors"]
    if good.num_rows:
        shares = [pa.compute.mean(good[name]).as_py() for name in ("foreground", "ignored")]
        lines.append(f"foreground {shares[0]:.1%} of the pixels, ignored {shares[1]:.1%}")
    folder = storage.redact(output)
    lines += [f"labels:  {folder}/{LABELS}", f"classes: {folder}/{CLASSES}", f"rows:    {folder}/{ROWS}"]
    return "\n".join(lines)
