"""The options of `segpipe train-detector`."""

from pydantic import Field, model_validator

from pipeline.data.preprocessing import ProposalOptions
from pipeline.data.transforms.box_config import BoxAugmentation
from pipeline.storage import Url
from pipeline.training.config import OptionGroup, TrainerConfig


class AnnotatedImages(OptionGroup):
    """A part of a data set: images, and the boxes of their objects."""

    images: Url = Field(description="folder of images, any fsspec URL")
    boxes: Url = Field(
        description="boxes: a folder of Pascal VOC .xml files; a .json file in COCO's format; or a table (.csv, "
        ".parquet) with columns image, label, xmin, ymin, xmax, ymax and perhaps difficult and crowd"
    )
    list: Url | None = Field(
        default=None,
        description="text file that names the images to use, one path below the folder per line (default: all)",
    )


class StageOptions(OptionGroup):
    """The stages of R-CNN and SPPNet after fine-tuning."""

    svm_cost: float = Field(default=0.001, gt=0, description="weight C of the loss of the SVMs")
    ridge: float = Field(default=1000.0, gt=0, description="penalty of the weights of the box regressors")


class TrainDetectorConfig(TrainerConfig):
    """The options of `segpipe train-detector`."""

    train: AnnotatedImages
    val: AnnotatedImages
    classes: Url | None = Field(
        default=None, description="class file (YAML; default: the classes of the training boxes, sorted by name)"
    )
    proposals: ProposalOptions = ProposalOptions()
    augmentation: BoxAugmentation = BoxAugmentation()
    stages: StageOptions = StageOptions()

    @model_validator(mode="after")
    def _not_compiled(self) -> "TrainDetectorConfig":
        if self.compile:
            raise ValueError("--compile: detectors cannot be compiled, because every image has another size")
        return self

    @model_validator(mode="after")
    def _same_sums(self) -> "TrainDetectorConfig":
        several = self.scaling.num_workers > 1
        if several and self.batch_norm.mode == "synchronised" and self.model.startswith("rcnn_"):
            raise ValueError(
                "--batch-norm.mode synchronised: R-CNN computes the crops of one image after the other, so workers "
                "with unequal numbers of images would add up statistics of different crops; use local or frozen"
            )
        return self
