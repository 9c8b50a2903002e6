"""The interface between the bulk engine and a kind of run: segmentation, localization, detection."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.bulk.config import BulkConfig
from pipeline.bulk.fetch import Fetched, NetworkInput
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.report.blocks import Headline, Section

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset


class ImagePredictor(Protocol):
    """A trained model on the device of a predictor's process.

    Attributes:
        batch_pixels: Largest number of pixels in a batch; set by the engine.
        device_name: "cpu", or the name of the GPU's model.
        streams: Batches that the device computes at a time, each called from a thread of its own.
    """

    batch_pixels: int
    device_name: str
    streams: int

    def measure_batch_pixels(self) -> int:
        """Return the number of pixels in a batch that suits the device."""

    def free_memory(self) -> None:
        """Return memory of the device that is not in use, so that another process can have it."""

    def is_lost(self) -> bool:
        """Tell whether the device has failed for good, so that this process can compute no further image."""

    def __call__(self, images: Sequence[Any], truths: Sequence[str | None]) -> list[Any]:
        """Return a picklable result for each of some prepared images of one shape; `truths` are those of the plan."""


class RunReport(NamedTuple):
    """What is derived from the rows of a finished run.

    Attributes:
        tables: Report tables by name, as they are stored.
        headlines: Numbers at the top of the page.
        sections: Sections of the page.
        sheet: PNG of some rows as pictures; empty for none.
    """

    tables: Mapping[str, pa.Table] = MappingProxyType({})
    headlines: Sequence[Headline] = ()
    sections: Sequence[Section] = ()
    sheet: bytes = b""


class RunKind(Protocol):
    """A kind of bulk run with its configuration; it is pickled to actors, tasks and helper processes.

    The module of an implementation imports no PyTorch, DuckDB or matplotlib: helper processes import it too.
    `load_predictor` and `report` import what they need.
    """

    @property
    def config(self) -> BulkConfig:
        """Configuration of the run."""

    @property
    def card(self) -> Card:
        """Card of the model."""

    @property
    def classes(self) -> Classes:
        """Classes of the model, with the label values of the ground truth."""

    @property
    def refines(self) -> bool:
        """Whether `row` takes long and needs the pixels: then tasks all over the cluster compute the rows."""

    @property
    def seconds_per_image(self) -> float:
        """Seconds that the network may take for an image beside those for its pixels; then it is taken to hang."""

    def images_schema(self, metadata: dict[str, Any]) -> pa.Schema:
        """Return the schema of the table `images`, with some metadata of the run."""

    def truth(self, ids: Iterable[list[str]]) -> Iterator[Sequence[str | None]]:
        """Yield the ground truth of images as texts for the plan, None for an image without.

        Args:
            ids: The ids of all images, in lists that are not empty. For each list, one of the same length is yielded.

        Raises:
            UserError: The ground truth cannot be read, or belongs to none of the images.
        """

    def load_predictor(self, images: int) -> ImagePredictor:
        """Load the model onto this process's device, for a run of so many images."""

    def warm_up(self) -> None:
        """Import and compile what `row` needs; called in the helper processes of tasks, if the run has tasks."""

    def prepare(self, pixels: NDArray[np.uint8]) -> NetworkInput:
        """Return the network's input for an upright image [height, width, 3]; called in helper processes.

        Raises:
            StageError: A stage of its own failed.
            UserError: The user has to provide something, such as a package.
        """

    def row(self, fetched: Fetched, result: Any) -> dict[str, Any]:
        """Return the columns of `images` that belong to this kind, for a predicted image; called in helper processes.

        Raises:
            StageError: A stage of its own failed.
        """

    def report(self, run: str, files: Sequence[str], images: "Dataset") -> RunReport:
        """Derive the report from the rows of a run.

        Args:
            run: Folder of the run.
            files: Files of its rows below that folder, in order.
            images: The rows.
        """


@runtime_checkable
class PlacedByDevice(Protocol):
    """A kind of run whose stages depend on whether the predictors have GPUs."""

    def placed(self, *, use_gpu: bool | None) -> tuple[RunKind, str]:
        """Return the kind for predictors with or without GPUs, and a line for the user, which may be empty.

        Args:
            use_gpu: Whether the predictors have GPUs; None if that is not known yet.

        Raises:
            UserError: The run needs GPUs.
        """
