"""What the configuration of every architecture has in common."""

from abc import abstractmethod
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import nn


class ModelConfig(BaseModel):
    """An architecture and its options: everything but the classes that is needed to build the network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: ClassVar[str]
    classifies: ClassVar[bool] = False  # images, not pixels
    # What each auxiliary output's loss weighs, and whether that falls to 0 over the run, as the paper has it.
    auxiliary_weight: ClassVar[float] = 0.4
    auxiliary_decay: ClassVar[bool] = False
    min_training_batch: ClassVar[int] = 1

    width: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="multiplies every layer's channels")

    @abstractmethod
    def build(self, num_classes: int) -> nn.Module:
        """The network with fresh weights; it maps [batch, 3, height, width] to a `SegmentationOutput`, or to a
        `ClassifierOutput` if it classifies, and knows its `output_stride`."""
