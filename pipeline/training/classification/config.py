"""The options of `segpipe train-classifier`."""

from typing import Annotated

from pydantic import Field, model_validator

from pipeline.data.transforms.config import Augmentation, Side
from pipeline.storage import Url
from pipeline.training.config import OptionGroup, TrainerConfig


class LabelledImages(OptionGroup):
    """Images and their classes: a folder for each class; a folder and a table; or images with and without a target."""

    images: Url | None = Field(
        default=None, description="folder, any fsspec URL, that contains a folder of images for each class"
    )
    labels: Url | None = Field(
        default=None,
        description="classes from a table (.csv, .parquet) with columns image and label (or labels for several), or a "
        "folder of Pascal VOC .xml files, instead of the folders' names",
    )
    positive: Url | None = Field(default=None, description="folder of images that show the target")
    negative: Url | None = Field(default=None, description="folder of images that do not show the target")
    list: Url | None = Field(
        default=None,
        description="text file that names the images to use, one path below the folder per line (default: all)",
    )

    @model_validator(mode="after")
    def _one_form(self) -> "LabelledImages":
        pairs = self.positive is not None and self.negative is not None
        if (self.positive is None) != (self.negative is None) or pairs == (self.images is not None):
            raise ValueError("needs either images (and labels), or positive and negative")
        if self.labels and not self.images:
            raise ValueError("labels needs images")
        return self


class ClassifierLoss(OptionGroup):
    """What is minimised: cross-entropy if an image has one class, otherwise binary cross-entropy for each class."""

    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of the target probability that is spread over all classes"
    )
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(), description="one weight per class; for a multi-label classifier, of the class's positive term"
    )


class TrainClassifierConfig(TrainerConfig):
    """The options of `segpipe train-classifier`."""

    train: LabelledImages
    val: LabelledImages
    classes: Url | None = Field(
        default=None, description="class file (YAML; default: the classes that occur in the training images)"
    )
    target: str = Field(default="target", description="class name of what the positive images show")
    multi_label: bool | None = Field(
        default=None,
        description="an image may show several classes or none (default: true if any training or validation image "
        "does)",
    )
    input_size: tuple[Side, Side] = Field(
        default=(224, 224),
        description="height,width to which images are resized first, here and in bulk; the aspect ratio is not kept",
    )
    augmentation: Augmentation = Augmentation(crop=(224, 224), scale=(1.0, 1.5))
    loss: ClassifierLoss = ClassifierLoss()

    @model_validator(mode="after")
    def _no_label_maps(self) -> "TrainClassifierConfig":
        defaults = Augmentation()
        for name in ("cutmix", "copy_paste", "max_class_share", "class_aware", "focus"):
            if getattr(self.augmentation, name) != getattr(defaults, name):
                flag = f"--augmentation.{name.replace('_', '-')}"
                raise ValueError(f"{flag} needs label maps, and a classifier has none; leave it out")
        return self
