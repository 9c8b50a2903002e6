"""What a training run needs to know of that which is learnt: segmentation or classification."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.bundle import Card
from pipeline.data.classes import Classes
from pipeline.training.stream import Crops


class Measures(NamedTuple):
    """How the scores of an epoch are named in its record.

    Attributes:
        titles: key -> what people call it; the first is the headline, by which the best epoch is chosen.
        by_class: key of a dict with a score of each class, None where it is undefined.
        class_title: what people call that.
        of_image: key of an image's score in its row.
    """

    titles: dict[str, str]
    by_class: str
    class_title: str
    of_image: str

    @property
    def headline(self) -> str:
        return next(iter(self.titles))

    @property
    def title(self) -> str:
        return self.titles[self.headline]


class Validated(Protocol):
    """What a network makes of a validation set, or of a worker's share."""

    @property
    def unread(self) -> list[str]:
        """A line for each sample that could not be read."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict per image: `validation.parquet`."""

    @property
    def confusion(self) -> NDArray | None:
        """int64 [classes, classes], row truth, column prediction, where that exists."""

    def over_workers(self, device: torch.device) -> "Validated":
        """The whole of the workers' shares, on each of them.

        Raises:
            UserError: there is nothing in it to score.
        """

    def record(self, classes: Classes) -> dict[str, Any]:
        """The scores under the keys of the task's `Measures`."""


class Objective(Protocol):
    """The loss of a batch, in parts that add up to it."""

    def totals(self, labels: Tensor) -> Tensor:
        """What sums over these labels are divided by, a vector; those of parts add up to the batch's."""

    def __call__(self, output: Any, labels: Tensor, *, totals: Tensor, progress: float) -> Tensor:
        """This part's share of the loss of a batch with the given totals; progress: share of the run that is over."""


class Draw(Protocol):
    """Training examples by their positions in an epoch; runs in tasks that have no torch."""

    def __call__(self, table: pa.Table, epoch: int, positions: range) -> Crops: ...


class Task(Protocol):
    """What is learnt. Travels to the workers."""

    classifies: bool  # images, not pixels
    classes: Classes
    measures: Measures
    table: pa.Table  # a row per training image; the workers' copies are empty, tasks have it from the object store

    @property
    def draw(self) -> Draw:
        """What tasks are given."""

    @property
    def validation(self) -> Sequence[Any]:
        """The validation samples."""

    def prepare(self) -> None:
        """Called once on the driver, when there is a cluster to compute on."""

    def objective(self, network: nn.Module, device: torch.device) -> Objective:
        """The loss."""

    def evaluator(self, network: nn.Module, device: torch.device) -> Any:
        """What `validate` and `pictures` take: the network, ready to predict."""

    def validate(self, evaluator: Any, samples: Sequence[Any]) -> Validated:
        """Score a share of `validation`; the network is left in eval mode."""

    def pictures(self, evaluator: Any, rows: Sequence[dict[str, Any]] | None = None) -> bytes:
        """PNG of the first few validation images, or of those of some rows; empty where none can be read."""

    def card(self) -> Card:
        """The bundle's, without weights and record."""
