"""The options of `segpipe train` and `segpipe validate`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from pipeline.data import presets
from pipeline.data.naming import LabelNames
from pipeline.data.presets import DatasetOptions, DatasetSplit
from pipeline.data.transforms.config import Augmentation
from pipeline.recipes import Recipe
from pipeline.storage import Url
from pipeline.training.config import OptionGroup, TrainerConfig

LossTerm = Literal["cross_entropy", "bootstrapped", "border_weighted", "focal", "dice", "lovasz_softmax"]


class Split(LabelNames):
    """A part of a data set: images and label maps below two folders, paired by path."""

    images: Url = Field(description="folder of images, any fsspec URL")
    labels: Url = Field(description="folder of label maps")
    list: Url | None = Field(
        default=None,
        description="text file that names the images to use, one path below the folder per line (default: all)",
    )


class SegmentationLoss(OptionGroup):
    """What is minimised, at the resolution of the image."""

    terms: dict[LossTerm, Annotated[float, Field(gt=0)]] = Field(
        default={"cross_entropy": 1.0},
        min_length=1,
        description="a weighted sum, TERM=WEIGHT. cross_entropy: over all labelled pixels. bootstrapped: over the "
        "pixels of largest loss in each image (FRRN). border_weighted: gaps between objects weigh more (U-Net). focal: "
        "easy pixels weigh less. dice, lovasz_softmax: overlap of each class in each image",
    )
    reduction: Literal["mean", "sum"] = Field(
        default="mean",
        description="mean: over pixels or images. sum: not divided, as in FCN (its learning rates are about 1e-10)",
    )
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(), description="one weight per class, for all pixelwise terms except bootstrapped"
    )
    median_frequency: bool = Field(
        default=False, description="derive the class weights from the training labels: rare classes weigh more (SegNet)"
    )
    worst_pixels: int = Field(default=512 * 64, ge=1, description="pixels of each image that bootstrapped counts")
    focal_gamma: float = Field(
        default=2.0, ge=0, description="exponent of 1 - p in focal, where p is the probability of the true class"
    )
    border_weight: float = Field(
        default=10.0, ge=0, description="w0 of border_weighted: what the narrowest gap adds to a pixel's weight"
    )
    border_sigma: float = Field(
        default=5.0, gt=0, description="sigma of border_weighted: width in pixels of a narrow gap"
    )
    background: int = Field(default=0, ge=0, description="class of the gaps between objects, for border_weighted")
    auxiliary_weight: float | None = Field(
        default=None, ge=0, description="weight of each auxiliary output's loss (default: the architecture's)"
    )
    auxiliary_decay: bool | None = Field(
        default=None,
        description="let the auxiliary weight fall linearly to 0 over the run (default: as the architecture does)",
    )

    teacher_weight: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the loss that comes from the scores of --teacher; the rest comes from the labels",
    )
    teacher_temperature: float = Field(
        default=1.0, gt=0, description="divisor of both networks' scores before they are compared"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "SegmentationLoss":
        if self.class_weights and self.median_frequency:
            raise ValueError("--loss.class-weights and --loss.median-frequency exclude each other")
        return self


class TrainConfig(TrainerConfig, DatasetOptions):
    """The options of `segpipe train`."""

    train: Split
    val: Split
    classes: Url = Field(description="class file (YAML)")
    teacher: Url | None = Field(
        default=None,
        description="bundle of a network with the same classes, from whose scores this one also learns (knowledge "
        "distillation, Hinton et al.)",
    )
    augmentation: Augmentation = Augmentation()
    loss: SegmentationLoss = SegmentationLoss()

    @model_validator(mode="before")
    @classmethod
    def _of_dataset(cls, values: Any) -> Any:
        """Set what is not given and `dataset` knows."""
        named = presets.named_dataset(values)
        if named is None:
            return values
        splits = {split: presets.split_options(*named, split) | _given(values, split) for split in ("train", "val")}
        return {"classes": presets.class_file(named[0])} | values | splits

    def deciding_options(self) -> dict[str, Any]:
        """Return the options that decide the result; what `dataset` names is in those of the splits."""
        options = super().deciding_options()
        return {name: value for name, value in options.items() if name not in ("dataset", "root")}


def _given(values: dict[str, Any], group: str) -> dict[str, Any]:
    """Return the options of a group that are given, before or after they have been checked."""
    given = values.get(group) or {}
    return given.model_dump(exclude_unset=True) if isinstance(given, BaseModel) else given


class InspectConfig(LabelNames, DatasetSplit):
    """The options of `segpipe validate`."""

    images: Url = Field(description="folder of images, any fsspec URL")
    labels: Url | None = Field(default=None, description="folder of label maps")
    boxes: Url | None = Field(
        default=None,
        description="boxes instead of label maps: a folder of Pascal VOC .xml files, a COCO .json file, or a table "
        "(.csv, .parquet) of image, label, xmin, ymin, xmax, ymax",
    )
    classes: Url | None = Field(
        default=None, description="class file (YAML), required with --labels (default with --boxes: their classes)"
    )
    list: Url | None = Field(
        default=None,
        description="text file that names the images to use, one path below the folder per line (default: all)",
    )
    report: Url | None = Field(default=None, description="JSON file to write everything found to")
    show: int = Field(default=20, ge=0, description="largest number of problems of each kind to print")
    preview: Url | None = Field(default=None, description="PNG file to draw augmented training crops on")
    recipe: Recipe | None = Field(
        default=None, description="recipe (its name, or a YAML file) with the augmentation and seed of the preview"
    )
    augmentation: Augmentation = Augmentation()
    seed: int = Field(default=0, ge=0, description="seed of the preview's crops")

    @model_validator(mode="before")
    @classmethod
    def _of_dataset(cls, values: Any) -> Any:
        """Set what is not given and `dataset` knows."""
        return presets.with_dataset(values)

    @model_validator(mode="after")
    def _one_kind(self) -> "InspectConfig":
        if (self.labels is None) == (self.boxes is None):
            raise ValueError("either --labels or --boxes is needed")
        if self.labels is not None and self.classes is None:
            raise ValueError("--labels needs --classes, the class file of the label maps")
        if self.boxes is not None and self.recipe is not None:
            raise ValueError("--recipe is for the crops of label maps; --preview draws boxes on whole images")
        if self.recipe is not None and self.preview is None:
            raise ValueError("--recipe says how --preview draws crops; give --preview, too")
        return self
