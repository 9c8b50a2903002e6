"""The export of a run, a row group at a time: memory does not grow with the number of images."""

import posixpath
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import export, storage
from pipeline.bulk.plan import read_manifest
from pipeline.bulk.results import RowGroup, open_images, row_groups
from pipeline.bulk.schema import metadata_of
from pipeline.data.classes import Classes
from pipeline.errors import UserError, one_line
from pipeline.export.config import ExportConfig
from pipeline.export.picture import Picture, UnreadableImage, hashed, stem_of, suffix_of
from pipeline.export.writer import Export, FormatWriter
from pipeline.progress import Progress
from pipeline.threads import in_order

COLUMNS = ("image_id", "uri", "status", "width", "height")
ROWS = 64  # read at a time from a row group


class Exported(NamedTuple):
    """What an export wrote.

    Attributes:
        images: Number of exported images.
        errors: Number of images without mask or boxes, because they failed, or that could not be copied.
        deselected: Number of images that `--where` left out.
    """

    images: int
    errors: int
    deselected: int


def export_run(config: ExportConfig) -> Exported:
    """Write the masks or boxes of a run in another format.

    Raises:
        UserError: The run is not finished or has nothing to export, the format cannot hold it, or the condition is no
            SQL.
    """
    files = [file["path"] for file in read_manifest(config.run)["files"]]
    images = open_images(config.run, files)
    about = metadata_of(images.schema)
    has_masks = "mask" in images.schema.names
    check(config, has_masks=has_masks, has_boxes="detections" in images.schema.names)
    storage.check_writable(config.output)
    export_ = Export(
        config=config,
        classes=Classes(**about.get("mask_classes", about["classes"])),
        name=posixpath.basename(config.run.rstrip("/")).removeprefix("run_id="),
        has_masks=has_masks,
    )
    shared = _shared_names(config.run, files)
    writer = export.load(config.format)(export_)
    try:
        return _write(config, export_, writer, files, shared)
    finally:
        writer.close()


def check(config: ExportConfig, *, has_masks: bool, has_boxes: bool) -> None:
    """Refuse a format that does not fit the run.

    Raises:
        UserError: The run has neither masks nor boxes, or the format holds only the other or no images.
    """
    run, chosen = storage.redact(config.run), export.FORMATS[config.format]
    if not (has_masks or has_boxes):
        raise UserError(f"{run} has neither masks nor boxes; for masks, run segpipe localize with --mask threshold")
    if not (chosen.masks if has_masks else chosen.boxes):
        kind = "masks" if has_masks else "boxes"
        others = ", ".join(name for name, one in export.FORMATS.items() if (one.masks if has_masks else one.boxes))
        raise UserError(f"--format {config.format} holds no {kind}, and {run} has only {kind}; choose one of {others}")
    if config.copy_images and not chosen.images:
        raise UserError(f"--copy-images: the format {config.format} holds no images; leave the option out")


def _shared_names(run: str, files: list[str]) -> frozenset[int]:
    """Return the hashes of the stems that several images have."""
    hashes = [np.zeros(0, np.uint64)]
    hashes += [hashed(map(stem_of, batch["image_id"].to_pylist())) for batch in _batches(run, files, ["image_id"])]
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    return frozenset(values[counts > 1].tolist())


def _batches(run: str, files: list[str], columns: list[str]) -> Iterator[pa.RecordBatch]:
    yield from open_images(run, files).to_batches(columns=columns, fragment_readahead=1, batch_readahead=1)


def _write(
    config: ExportConfig, about: Export, writer: FormatWriter, files: list[str], shared: frozenset[int]
) -> Exported:
    groups = row_groups(config.run, files)
    number = written = errors = deselected = 0
    with Progress(total=sum(group.rows for group in groups), title="exporting", delay=1) as progress:

        def pictures() -> Iterator[Picture]:
            nonlocal number, errors, deselected
            for group in groups:
                for rows in _read(config, about, group):
                    wanted = rows if config.where is None else _where(rows, config.where)
                    deselected += rows.num_rows - wanted.num_rows
                    progress.update(rows.num_rows)
                    for row in wanted.to_pylist():
                        if row["status"] != "ok" or (about.has_masks and row["mask"] is None):
                            errors += 1
                            continue
                        number += 1
                        yield _picture(number, row, shared)

        def encode(picture: Picture) -> tuple[Picture, Any, bool]:
            try:
                return picture, writer.encode(picture), True
            except UnreadableImage as error:
                progress.write(str(error))
                return picture, None, False

        for picture, encoded, is_good in in_order(encode, pictures()):
            if is_good:
                written += 1
                writer.add(picture, encoded)
            else:
                errors += 1
    if written == 0:
        reason = "all its images failed or cannot be read" if errors else "it has no images"
        reason = f"--where {config.where!r} chose none of its images" if deselected else reason
        raise UserError(f"{storage.redact(config.run)}: nothing to export; {reason}")
    writer.finish()
    return Exported(written, errors, deselected)


def _read(config: ExportConfig, about: Export, group: RowGroup) -> Iterator[pa.Table]:
    """Yield the rows of a row group in small tables: masks of large images fill the memory fast."""
    fs, path = storage.filesystem(storage.join(config.run, group.file))
    own = "mask" if about.has_masks else "detections"
    with fs.open(path, "rb") as file:
        parquet = pq.ParquetFile(file)
        columns = [*COLUMNS, own] if config.where is None else None  # a condition may name any column
        for batch in parquet.iter_batches(batch_size=ROWS, row_groups=[group.group], columns=columns):
            yield pa.Table.from_batches([batch])


def _where(rows: pa.Table, condition: str) -> pa.Table:
    """Return the rows for which an SQL condition is true."""
    import duckdb  # here, because an export without a condition needs none

    with duckdb.connect(config={"enable_external_access": False}) as connection:
        connection.register("images", rows.append_column("__row", pa.array(range(rows.num_rows))))
        try:
            found = connection.execute(f"SELECT __row FROM images WHERE ({condition}\n) ORDER BY __row").fetchall()
        except duckdb.Error as error:
            raise UserError(f"--where: {one_line(error)}") from None
    return rows.take(pa.array([row for (row,) in found], pa.int64()))


def _picture(number: int, row: dict[str, Any], shared: frozenset[int]) -> Picture:
    image_id, stem = row["image_id"], stem_of(row["image_id"])
    if shared and int(hashed([stem])[0]) in shared:
        stem = stem_of(image_id, shared=True)
    return Picture(
        number=number,
        image_id=image_id,
        uri=row["uri"],
        stem=stem,
        suffix=suffix_of(image_id),
        width=row["width"],
        height=row["height"],
        png=row["mask"]["bytes"] if row.get("mask") else None,
        boxes=row.get("detections") or [],
    )


def format_exported(exported: Exported, config: ExportConfig) -> str:
    """Describe what was written, for the terminal."""
    text = f"{exported.images:,} images as {config.format} in {storage.redact(config.output)}"
    text += f"; {exported.errors:,} left out because they failed or cannot be read" if exported.errors else ""
    return text + (f"; {exported.deselected:,} not chosen by --where" if exported.deselected else "")
