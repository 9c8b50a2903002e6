"""The interface between the training engine and what is learnt: segmentation, classification, detection."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.models.config import ModelTask

if TYPE_CHECKING:
    from pipeline.training.examples import TrainingData

Pixels = Tensor | list[Tensor]  # a batch of images of one size, or images of any sizes
Labels = Tensor | list[Any]  # the same for their labels, each a tensor or a named tuple of tensors


class Measures(NamedTuple):
    """The names of an epoch's scores in its record.

    Attributes:
        titles: Key of each score -> its title for people; the first is the headline, which decides the best epoch.
        by_class: Key of a dict with a score for each class, None where it is undefined.
        class_title: Title of the class scores for people.
        of_image: Key of an image's score in its row.
        variants: Keys of scores that are other forms of the headline score, and tell something only if they differ.
    """

    titles: dict[str, str]
    by_class: str
    class_title: str
    of_image: str
    variants: tuple[str, ...] = ()

    def titles_of(self, records: Sequence[dict[str, Any]]) -> dict[str, str]:
        """Return the titles of the scores, without variants that equal the headline score in all of some records."""
        same = {key for key in self.variants if all(record[key] == record[self.headline] for record in records)}
        return {key: title for key, title in self.titles.items() if key not in same}

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


class Objective:
    """The loss of a batch, computed in parts that add up to it."""

    def module(self, network: nn.Module) -> nn.Module:
        """Return the module that a training step calls: the network, unless it is not called on images alone."""
        return network

    def arguments(self, images: Pixels, labels: Labels) -> tuple[Any, ...]:
        """Return the arguments of `module` for normalised images and their labels."""
        return (images,)

    @abstractmethod
    def totals(self, labels: Any) -> Tensor:
        """Return the divisors of sums over these labels, a vector; those of parts add up to the batch's."""

    @abstractmethod
    def __call__(self, output: Any, labels: Any, *, totals: Tensor, progress: float) -> Tensor:
        """Return this part's share of the loss of a batch.

        Args:
            output: Output of `module` in train mode.
            labels: Labels of the part.
            totals: Divisors of the whole batch.
            progress: Share of the run that is over.
        """


class Task:
    """What is learnt; it is pickled to the workers."""

    name: ModelTask  # the task of the models that learn it
    classes: Classes
    measures: Measures

    validation: Sequence[Any]  # validation samples

    def prepare(self, data: "TrainingData") -> "TrainingData":
        """Compute what needs the cluster; called once, on the driver.

        Returns:
            The training data, perhaps with columns that were computed.
        """
        return data

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be done when all epochs are recorded."""
        return True

    def finish(self, data: "TrainingData", record: dict[str, Any]) -> None:
        """Do what is left when all epochs are done; called on the driver, again after an interruption.

        Args:
            data: What `prepare` returned.
            record: Record of the best epoch, whose weights are in the bundle.
        """

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables of the report beyond those of the epochs, each a row of values by column, by heading."""
        return {}

    @abstractmethod
    def objective(self, network: nn.Module, device: torch.device) -> Objective:
        """Return the loss."""

    @abstractmethod
    def evaluator(self, network: nn.Module, device: torch.device) -> Any:
        """Return the network, ready to predict, in the form that `validate` and `pictures` take."""

    @abstractmethod
    def validate(self, evaluator: Any, samples: Sequence[Any]) -> Validated:
        """Score a share of `validation`; the network is left in eval mode."""

    @abstractmethod
    def pictures(self, evaluator: Any, rows: Sequence[dict[str, Any]] | None = None) -> bytes:
        """Draw the first few validation images, or those of some rows, as PNG; empty if none can be read."""

    @abstractmethod
    def card(self) -> Card:
        """Return the bundle's card, without weights and training record."""
