"""The images that a run processes: its input, without those that an earlier run has done.

The input and the earlier run are both ordered by id. They are read side by side, a table at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.bulk.config import LAST, BulkConfig
from pipeline.bulk.earlier import (
    COMPARED,
    LISTING,
    REMOVED,
    Earlier,
    known_images,
    require_whole,
    store_earlier,
    stored_table,
)
from pipeline.bulk.listing import list_input
from pipeline.bulk.named_places import Rules
from pipeline.bulk.plan import SCHEMA, read_manifest, require_finished
from pipeline.bulk.results import read_file
from pipeline.bulk.table_stream import TableStream
from pipeline.errors import UserError

ROWS = 10_000  # of the earlier run that are read at a time after the last image


class Selection:
    """The images of a run, as tables with `listing.IMAGE_FIELDS`, ordered by id. It can be iterated once.

    Args:
        config: Configuration of the run, in which no run is named `last`; see `earlier.with_earlier`.
        run: Folder of the run, to store what it continues and, with `--since`, the listing of the whole input; None to
            store nothing.

    Attributes:
        removed: Number of images of the run that `--since` names that the input no longer has; None without `--since`.
            It is complete after the iteration.

    Raises:
        UserError: The input is empty or cannot be listed, or the earlier run is not finished or does not know all
            images.
    """

    def __init__(self, config: BulkConfig, *, run: str | None = None):
        self.removed: int | None = None
        self._run = run
        self._earlier = config.since or config.retry_errors
        if self._earlier:
            try:
                require_finished(self._earlier)
            except UserError as error:
                option = "--since" if config.since else "--retry-errors"
                error.args = (f"{option}: {error}; '{LAST}' stands for the newest finished run",)
                raise
        if config.since:
            require_whole(config.since)
        rules = Rules(local_files=config.allow_local_files, queries=config.allow_queries)
        self._images = list_input(config.images, rules=rules)
        if config.since:
            self._images = self._changed_since(config.since, self._images)
        elif config.retry_errors:
            self._images = _failed_in(config.retry_errors, self._images)

    def __iter__(self) -> Iterator[pa.Table]:
        yield from self._images
        if self._run:
            name = storage.redact(self._earlier) if self._earlier else None
            store_earlier(self._run, Earlier(name, self.removed, is_listed=self.removed is not None))

    def _changed_since(self, run: str, images: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Yield the images that the run does not have, or has with another size, tag or time."""
        self.removed = 0
        planned = TableStream(known_images(run), key="image_id")
        with self._stored(LISTING, COMPARED) as store_listed, self._stored(REMOVED, ["image_id"]) as store_removed:
            for table in images:
                store_listed(table)
                before = _up_to(planned, table, COMPARED)
                gone = before.filter(pc.invert(pc.is_in(before["image_id"], value_set=table["image_id"])))
                store_removed(gone)
                self.removed += len(gone)
                before = before.take(pc.index_in(table["image_id"], value_set=before["image_id"]))  # nulls for new ones
                same = pc.and_(pc.equal(before["bytes"], table["bytes"]), pc.equal(_version(before), _version(table)))
                yield table.filter(pc.invert(pc.fill_null(same, False)))
            while rest := planned.take(ROWS):
                for gone in rest:
                    store_removed(gone)
                    self.removed += len(gone)

    def _stored(self, path: str, columns: list[str]) -> AbstractContextManager[Callable[[pa.Table], None]]:
        return stored_table(storage.join(self._run, path) if self._run else None, columns)


def _up_to(earlier: TableStream, images: pa.Table, columns: list[str]) -> pa.Table:
    """Take the rows of an earlier run up to the last of some images."""
    return pa.concat_tables([SCHEMA.empty_table().select(columns), *earlier.until(images["image_id"][-1].as_py())])


def _version(images: pa.Table) -> pa.ChunkedArray:
    """Return the tag of each image, or its time where the store has no tags."""
    return pc.if_else(pc.equal(images["etag"], ""), images["mtime"], images["etag"])


def _failed_in(run: str, images: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield the images that failed in the run, of which one file of rows is read at a time."""
    files = [file["path"] for file in read_manifest(run)["files"]]
    rows = (read_file(run, file, ["image_id", "status"]) for file in files)
    ids_of_errors = (table.filter(pc.field("status") == "error")["image_id"] for table in rows)
    failed = TableStream((pa.table({"image_id": ids}) for ids in ids_of_errors), key="image_id")
    for table in images:
        ids = _up_to(failed, table, ["image_id"])["image_id"]
        yield table.filter(pc.is_in(table["image_id"], value_set=ids))
