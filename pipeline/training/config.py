"""What a training run is told."""

from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.data.preprocessing import DType, Preprocessing
from pipeline.data.transforms import Augmentation
from pipeline.data.transforms.config import Side
from pipeline.storage import Url


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(_Group):
    """A part of a data set: images and label maps below two folders, paired by path without suffix."""

    images: Url = Field(description="folder of images, any fsspec URL")
    labels: Url = Field(description="folder of label maps")
    list: Url | None = Field(default=None, description="file of keys, one a line, to take only these")


class Optimiser(_Group):
    """How weights follow gradients."""

    kind: Literal["sgd", "adam", "adamw"] = Field(default="sgd", description="sgd has momentum")
    lr: float = Field(default=0.01, gt=0, description="learning rate, before the schedule")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd: of the gradient")
    nesterov: bool = Field(default=False, description="sgd: Nesterov's momentum")
    weight_decay: float = Field(default=1e-4, ge=0)
    lr_of: dict[str, float] = Field(
        default={},
        description="multipliers of the learning rate, WHAT=FACTOR: backbone, head (all but the backbone), score (the "
        "layers that give the classes' scores), bias, norm, or the beginning of a parameter's name, as in "
        "backbone.layer1=0.1; several that apply multiply",
    )
    decay_of: dict[str, float] = Field(default={}, description="multipliers of the weight decay, alike")
    clip: float | None = Field(default=None, gt=0, description="largest norm of a step's gradient")
    accumulate: int = Field(
        default=1, ge=1, description="parts that a worker cuts its batch into where memory does not hold it"
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay per step of a moving average of the weights, which is validated and stored in their place",
    )


class Schedule(_Group):
    """How the learning rate changes over the steps of a run."""

    kind: Literal["poly", "step", "cosine", "exponential", "constant"] = Field(
        default="poly", description="poly: (1 - step / steps)^power (DeepLab v2, section 4.1)"
    )
    power: float = Field(default=0.9, ge=0, description="poly")
    gamma: float = Field(default=0.1, gt=0, le=1, description="step and exponential: the factor of a drop")
    every: int | None = Field(default=None, ge=1, description="step and exponential: steps from drop to drop")
    at: tuple[float, ...] = Field(default=(), description="step: drops at these shares of the run, as in 0.3,0.6,0.8")
    floor: float = Field(default=0.0, ge=0, description="the learning rate does not fall below it")
    warmup: int = Field(default=0, ge=0, description="steps in which the learning rate first rises, linearly")

    @model_validator(mode="after")
    def _complete(self) -> "Schedule":
        if self.kind == "step" and self.every is None and not self.at:
            raise ValueError("schedule: step needs 'every' or 'at'")
        if self.kind == "exponential" and self.every is None:
            raise ValueError("schedule: exponential needs 'every'")
        if any(not 0 < share < 1 for share in self.at):
            raise ValueError("schedule.at: shares lie between 0 and 1")
        return self


class BatchNorm(_Group):
    """What batch normalisation does in training."""

    mode: Literal["local", "synchronised", "frozen"] = Field(
        default="local",
        description="local: statistics of each worker's part of the batch. synchronised: of the whole batch. frozen: "
        "the statistics and weights that it starts with",
    )
    recompute: int = Field(
        default=0,
        ge=0,
        description="forward passes that compute the statistics anew before each validation (SegNet, DeconvNet)",
    )


Term = Literal["cross_entropy", "bootstrapped", "border_weighted", "focal", "dice", "lovasz_softmax"]


class Loss(_Group):
    """What is minimised, at the image's resolution."""

    terms: dict[Term, Annotated[float, Field(gt=0)]] = Field(
        default={"cross_entropy": 1.0},
        min_length=1,
        description="a weighted sum, TERM=WEIGHT. cross_entropy: over all labelled pixels. bootstrapped: over the "
        "worst of each image (FRRN). border_weighted: gaps between objects weigh more (U-Net). focal: easy pixels "
        "weigh less. dice and lovasz_softmax: overlap of each class in each image",
    )
    reduction: Literal["mean", "sum"] = Field(
        default="mean", description="sum: not divided by pixels or images, as FCN's (its learning rates are 1e-10)"
    )
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(), description="of the pixelwise terms but bootstrapped: a number for each class"
    )
    median_frequency: bool = Field(
        default=False, description="make these weights from the training labels: rare classes weigh more (SegNet)"
    )
    worst_pixels: int = Field(default=512 * 64, ge=1, description="bootstrapped: pixels of each image that count")
    focal_gamma: float = Field(default=2.0, ge=0, description="focal: exponent of 1 - p")
    border_weight: float = Field(default=10.0, ge=0, description="border_weighted: w0, what the narrowest gap adds")
    border_sigma: float = Field(default=5.0, gt=0, description="border_weighted: width in pixels of what is narrow")
    background: int = Field(default=0, ge=0, description="border_weighted: the class that lies between objects")
    auxiliary_weight: float | None = Field(
        default=None, ge=0, description="weight of each auxiliary output's loss (default: the architecture's)"
    )
    auxiliary_decay: bool | None = Field(
        default=None,
        description="let that weight fall to 0 over the run, linearly (default: as the architecture does)",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Loss":
        if self.class_weights and self.median_frequency:
            raise ValueError("loss: class_weights and median_frequency exclude each other")
        return self


class Scaling(_Group):
    """Where training runs."""

    num_workers: int = Field(default=1, ge=1, description="training processes, one GPU each with use_gpu")
    min_workers: int | None = Field(
        default=None, ge=1, description="go on with as few while nodes are missing, and with more when they come"
    )
    use_gpu: bool = Field(default=False, description="a GPU for each worker")
    cpus_per_worker: int = Field(default=1, ge=1, description="CPUs that Ray reserves for each worker")
    max_failures: int = Field(default=3, ge=0, description="times that a lost worker is replaced")
    wait_for_nodes: bool = Field(
        default=False, description="start although the cluster is too small: an autoscaler will add nodes"
    )


class Tracking(_Group):
    """Where the course of a run is written besides `metrics.jsonl`."""

    tensorboard: bool = Field(default=False, description="event files in OUTPUT/tensorboard (extra 'tensorboard')")
    mlflow: bool = Field(default=False, description="to the server that MLFLOW_TRACKING_URI names (extra 'mlflow')")


class RunConfig(_Group):
    """What every training run is told, whatever it learns."""

    model: str = Field(description="architecture; `jobs/models.py` lists them")
    model_options: dict[str, Any] = Field(
        default={}, description="options of the architecture, NAME=VALUE, as in width=0.25 or output_stride=8"
    )
    weights: Url | None = Field(
        default=None, description="start from it: a torchvision checkpoint (.pth, .safetensors), or a bundle"
    )
    output: Url = Field(description="folder for the bundle, metrics.jsonl and checkpoints, any fsspec URL")
    epochs: int = Field(default=50, ge=1)
    batch_size: int = Field(default=8, ge=1, description="images in a step, over all workers")
    epoch_samples: int | None = Field(
        default=None, ge=1, description="crops drawn in an epoch (default: one per training image)"
    )
    seed: int = Field(default=0, ge=0)
    freeze: tuple[str, ...] = Field(
        default=(), description="beginnings of the names of parameters that do not learn, as in backbone.layer1"
    )
    dtype: DType = Field(
        default="float32",
        description="bfloat16: autocast, faster on GPUs and on CPUs that have it. float16: with loss scaling",
    )
    compile: bool = Field(default=False, description="torch.compile; the first step takes minutes, the others less")
    preprocessing: Preprocessing = Preprocessing()
    augmentation: Augmentation = Augmentation()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    batch_norm: BatchNorm = BatchNorm()
    scaling: Scaling = Scaling()
    tracking: Tracking = Tracking()

    @field_validator("model_options", mode="before")
    @classmethod
    def _typed(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Command lines and environments give strings; read them as YAML does: 8, 0.25, true, name."""
        return {name: yaml.safe_load(v) if isinstance(v, str) else v for name, v in options.items()}

    def steps_per_epoch(self, train_size: int) -> int:
        return max(1, round((self.epoch_samples or train_size) / self.batch_size))

    def what_decides_the_result(self) -> dict[str, Any]:
        """The configuration without what may differ when a run is resumed."""
        return self.model_dump(mode="json", exclude={"scaling", "output", "tracking"})


class TrainConfig(RunConfig):
    """The options of `jobs/train.py`."""

    train: Split
    val: Split
    classes: Url = Field(description="class file (YAML)")
    loss: Loss = Loss()


class LabelledImages(_Group):
    """Images and their classes: a folder of each class; a folder and a table; or images with and without a target."""

    images: Url | None = Field(
        default=None, description="folder, any fsspec URL, with a folder of images for each class"
    )
    labels: Url | None = Field(
        default=None,
        description="table (.csv, .parquet) with columns image and label, or labels for several, or a folder of Pascal "
        "VOC's .xml, in place of the folders' names",
    )
    positive: Url | None = Field(default=None, description="folder of images that show the target")
    negative: Url | None = Field(default=None, description="folder of images that do not")
    list: Url | None = Field(default=None, description="file of keys, one a line, to take only these")

    @model_validator(mode="after")
    def _one_form(self) -> "LabelledImages":
        pairs = self.positive is not None and self.negative is not None
        if (self.positive is None) != (self.negative is None) or pairs == (self.images is not None):
            raise ValueError("needs either images (and labels), or positive and negative")
        if self.labels and not self.images:
            raise ValueError("labels needs images")
        return self


class ClassifierLoss(_Group):
    """What is minimised: cross-entropy where an image has one class, its binary form for each class otherwise."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the truth that all classes get")
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(), description="a number for each class; with several classes an image, of its positive term"
    )


class ClassifierConfig(RunConfig):
    """The options of `jobs/train_classifier.py`."""

    train: LabelledImages
    val: LabelledImages
    classes: Url | None = Field(default=None, description="class file (YAML; default: the classes found in train)")
    target: str = Field(default="target", description="name of what positive images show")
    multi_label: bool | None = Field(
        default=None,
        description="whether an image may show several classes or none (default: as the training labels do)",
    )
    input_size: tuple[Side, Side] = Field(
        default=(224, 224),
        description="height,width to which images are resized first, here and in bulk; their aspect is not kept",
    )
    augmentation: Augmentation = Augmentation(crop=(224, 224), scale=(1.0, 1.5))
    loss: ClassifierLoss = ClassifierLoss()

    @model_validator(mode="after")
    def _no_label_maps(self) -> "ClassifierConfig":
        told, plain = self.augmentation, Augmentation()
        for name in ("cutmix", "copy_paste", "max_class_share", "focus"):
            if getattr(told, name) != getattr(plain, name):
                raise ValueError(f"augmentation.{name} needs label maps, and a classifier has none")
        return self
