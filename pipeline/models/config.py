"""The base class of all model configurations."""

from abc import abstractmethod
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import nn


class ModelConfig(BaseModel):
    """The options of an architecture.

    Each architecture has one subclass, which declares its options, and one network, whose constructor takes the
    configuration and the number of classes.

    Attributes:
        paper: Authors, venue and year of the paper.
        classifies: Whether the network classifies whole images rather than pixels.
        auxiliary_weight: Default weight of the loss of each auxiliary output.
        auxiliary_decay: Whether that weight decays to 0 over the run by default, as in the paper.
        min_training_batch: Smallest number of images per worker that a training step can take.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: ClassVar[str]
    classifies: ClassVar[bool] = False
    auxiliary_weight: ClassVar[float] = 0.4
    auxiliary_decay: ClassVar[bool] = False
    min_training_batch: ClassVar[int] = 1

    width: float = Field(default=1.0, gt=0, le=100, description="factor by which every layer's channels are multiplied")

    @abstractmethod
    def build(self, num_classes: int) -> nn.Module:
        """Return the network with freshly initialised weights.

        It maps images [batch, 3, height, width] to a `SegmentationOutput`, or to a `ClassifierOutput` if the
        architecture classifies, and has an attribute `output_stride`, the pixels of the image per unit of its maps.

        Args:
            num_classes: Number of classes: channels of the score maps, or scores per image.
        """
