"""The base class of all model configurations."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from pipeline.errors import first_problem
from pipeline.suggestions import did_you_mean

ModelTask = Literal["segmentation", "classification", "detection"]


class ModelConfig(BaseModel):
    """The options of an architecture.

    Each architecture has one subclass, which declares its options, and one network, whose constructor takes the
    configuration and the number of classes.

    Attributes:
        paper: Authors, venue and year of the paper.
        task: What the network does: it classifies pixels, classifies images, or finds boxes.
        auxiliary_weight: Default weight of the loss of each auxiliary output.
        auxiliary_decay: Whether that weight decays to 0 over the run by default, as in the paper.
        min_training_batch: Smallest number of images per worker that a training step can take.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: ClassVar[str]
    task: ClassVar[ModelTask] = "segmentation"
    auxiliary_weight: ClassVar[float] = 0.4
    auxiliary_decay: ClassVar[bool] = False
    min_training_batch: ClassVar[int] = 1

    width: float = Field(default=1.0, gt=0, le=100, description="factor by which every layer's channels are multiplied")

    @abstractmethod
    def build(self, num_classes: int) -> nn.Module:
        """Return the network with freshly initialised weights.

        It maps images [batch, 3, height, width] to a `SegmentationOutput` or a `ClassifierOutput`, and has an attribute
        `output_stride`, the pixels of the image per unit of its maps. Detectors are called otherwise: see
        `detection.detector.DetectionNetwork`.

        Args:
            num_classes: Number of classes: channels of the score maps, or scores per image.
        """


Config = TypeVar("Config", bound=ModelConfig)


def configured(presets: Mapping[str, Config], name: str, options: dict[str, Any]) -> Config:
    """Return a listed configuration with some options changed.

    Args:
        presets: Configurations by the names of the models.
        name: Name of a model.
        options: Options that differ from those of the listed configuration.

    Raises:
        ValueError: The name or an option is unknown, or the model does not allow a value.
    """
    if name not in presets:
        hint = did_you_mean(name, presets, otherwise=f"there are {', '.join(presets)}")
        raise ValueError(f"unknown model '{name}'; {hint}")
    preset = presets[name]
    try:
        return type(preset)(**preset.model_dump() | options)
    except ValidationError as error:
        known = ", ".join(type(preset).model_fields)
        option, _, message = first_problem(error).partition(": ")
        if error.errors()[0]["type"] == "extra_forbidden":
            hint = did_you_mean(option, type(preset).model_fields, otherwise=f"there are {known}")
            raise ValueError(f"model '{name}' has no option '{option}'; {hint}") from None
        raise ValueError(f"model '{name}', option '{option}': {message} (options: {known})") from None
