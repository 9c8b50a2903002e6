"""The interface between the training engine and what is learnt: segmentation, classification."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.models.config import ModelTask


class Measures(NamedTuple):
    """The names of an epoch's scores in its record.

    Attributes:
        titles: Key of each score -> its title for people; the first is the headline, which decides the best epoch.
        by_class: Key of a dict with a score for each class, None where it is undefined.
        class_title: Title of the class scores for people.
        of_image: Key of an image's score in its row.
    """

    titles: dict[str, str]
    by_class: str
    class_title: str
    of_image: str

    @property
    def headline(self) -> str:
        """Key of the headline score."""
        return next(iter(self.titles))

    @property
    def title(self) -> str:
        """Title of the headline score."""
        return self.titles[self.headline]


class Validated(Protocol):
    """The results of a network on a validation set, or on a worker's share of it."""

    @property
    def unread(self) -> list[str]:
        """A line for each sample that could not be read."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict per image, as in `validation.parquet`."""

    @property
    def confusion(self) -> NDArray | None:
        """int64 [classes, classes], row truth, column prediction; None if it is undefined."""

    def over_workers(self, device: torch.device) -> "Validated":
        """Return the results over the shares of all workers, on each of them.

        Raises:
            UserError: There is nothing to score.
        """

    def record(self, classes: Classes) -> dict[str, Any]:
        """Return the scores under the keys of the task's `Measures`."""


class Objective(Protocol):
    """The loss of a batch, computed in parts that add up to it."""

    def totals(self, labels: Tensor) -> Tensor:
        """Return the divisors of sums over these labels, a vector; those of parts add up to the batch's."""

    def __call__(self, output: Any, labels: Tensor, *, totals: Tensor, progress: float) -> Tensor:
        """Return this part's share of the loss of a batch.

        Args:
            output: Output of the network in train mode.
            labels: Labels of the part.
            totals: Divisors of the whole batch.
            progress: Share of the run that is over.
        """


class Task(Protocol):
    """What is learnt; it is pickled to the workers."""

    name: ModelTask  # the task of the models that learn it
    classes: Classes
    measures: Measures

    @property
    def validation(self) -> Sequence[Any]:
        """Validation samples."""

    def prepare(self, table: pa.Table) -> None:
        """Compute what needs the cluster and the training table; called once, on the driver."""

    def objective(self, network: nn.Module, device: torch.device) -> Objective:
        """Return the loss."""

    def evaluator(self, network: nn.Module, device: torch.device) -> Any:
        """Return the network, ready to predict, in the form that `validate` and `pictures` take."""

    def validate(self, evaluator: Any, samples: Sequence[Any]) -> Validated:
        """Score a share of `validation`; the network is left in eval mode."""

    def pictures(self, evaluator: Any, rows: Sequence[dict[str, Any]] | None = None) -> bytes:
        """Draw the first few validation images, or those of some rows, as PNG; empty if none can be read."""

    def card(self) -> Card:
        """Return the bundle's card, without weights and training record."""
