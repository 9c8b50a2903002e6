"""What the bulk engine needs to know of that which it computes: one engine, several kinds of runs."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from numpy.typing import NDArray

from pipeline.bulk.config import BulkConfig
from pipeline.bulk.fetch import Fetched
from pipeline.bulk.listing import InputImage
from pipeline.bundle import Card
from pipeline.data.classes import Classes


class Model(Protocol):
    """A trained model in a predictor's process."""

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The pixels that the network is shown, of an upright image [height, width, 3]; runs in a fetching thread."""

    def __call__(self, images: Sequence[NDArray[np.uint8]], truths: Sequence[str | None]) -> list[Any]:
        """A result for each of some prepared images of one shape; `truths` are those of the plan."""

    def columns(self, fetched: Fetched, result: Any) -> dict[str, Any]:
        """A result as columns of the kind's `predicted`."""


class Report(NamedTuple):
    """What is derived from the rows of a finished run.

    Attributes:
        tables: by name, as they are stored.
        shown: heading -> table of the page.
        sheet: PNG; empty for none.
        caption: of the sheet.
    """

    tables: dict[str, pa.Table]
    shown: dict[str, pa.Table]
    sheet: bytes
    caption: str


class Kind(Protocol):
    """A kind of bulk run, with its configuration. Travels to actors and tasks."""

    @property
    def config(self) -> BulkConfig: ...

    @property
    def card(self) -> Card:
        """Of the model."""

    @property
    def classes(self) -> Classes:
        """Of what is compared: the model's, or the same under other label values."""

    @property
    def predicted(self) -> pa.Schema:
        """What a predictor hands on, a row per image: `PREDICTED` and its own columns."""

    def schema(self, run: dict[str, Any]) -> pa.Schema:
        """Of `images`, with `run` in its metadata."""

    def truth(self, images: list[InputImage]) -> list[str | None]:
        """What is known of each image, as a text for the plan.

        Raises:
            UserError: it cannot be read, or is of none of the images.
        """

    def load(self) -> Model:
        """The model, on this process's device."""

    def refine(self, predicted: Any) -> Any:
        """Stages of a Ray data set between predictors and writers."""

    def row(self, predicted: dict[str, Any], truth: str | None) -> dict[str, Any]:
        """The columns of `images` that are the kind's own, of an image that was predicted."""

    def report(self, run: str, files: Sequence[str], images: pa.dataset.Dataset) -> Report:
        """What is derived from the rows."""
