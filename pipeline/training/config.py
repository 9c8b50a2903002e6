"""What a training run is told."""

from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.preprocessing import DType, Preprocessing
from pipeline.storage import Url
from pipeline.transforms import Augmentation


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(_Group):
    """A part of a data set: images and label maps below two folders, paired by path without suffix."""

    images: Url = Field(description="folder of images, any fsspec URL")
    labels: Url = Field(description="folder of label maps")
    list: Url | None = Field(default=None, description="file of keys, one a line, to take only these")


class Optimiser(_Group):
    """SGD with the poly schedule: lr · (1 - step / steps)^power (DeepLab v2, section 4.1)."""

    lr: float = Field(default=0.01, gt=0, description="learning rate at the start")
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    power: float = Field(default=0.9, ge=0, description="of the poly schedule")


class Loss(_Group):
    """What is minimised, per pixel at the image's resolution."""

    kind: Literal["cross_entropy", "bootstrapped", "border_weighted"] = Field(
        default="cross_entropy",
        description="cross_entropy: mean over all labelled pixels. bootstrapped: mean over the worst of each image "
        "(FRRN). border_weighted: gaps between objects weigh more (U-Net)",
    )
    worst_pixels: int = Field(default=512 * 64, ge=1, description="bootstrapped: pixels of each image that count")
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


class Scaling(_Group):
    """Where training runs."""

    num_workers: int = Field(default=1, ge=1, description="training processes, one GPU each with use_gpu")
    use_gpu: bool = Field(default=False, description="a GPU for each worker")
    cpus_per_worker: int = Field(default=1, ge=1, description="CPUs that Ray reserves for each worker")
    max_failures: int = Field(default=3, ge=0, description="times that a lost worker is replaced")
    wait_for_nodes: bool = Field(
        default=False, description="start although the cluster is too small: an autoscaler will add nodes"
    )


class TrainConfig(_Group):
    """The options of `jobs/train.py`."""

    model: str = Field(description="architecture; `jobs/models.py` lists them")
    model_options: dict[str, Any] = Field(
        default={}, description="options of the architecture, NAME=VALUE, as in width=0.25 or output_stride=8"
    )
    weights: Url | None = Field(
        default=None, description="start from it: a torchvision checkpoint (.pth, .safetensors), or a bundle"
    )
    train: Split
    val: Split
    classes: Url = Field(description="class file (YAML)")
    output: Url = Field(description="folder for the bundle, metrics.jsonl and checkpoints, any fsspec URL")
    epochs: int = Field(default=50, ge=1)
    batch_size: int = Field(default=8, ge=1, description="images in a step, over all workers")
    epoch_samples: int | None = Field(
        default=None, ge=1, description="crops drawn in an epoch (default: one per training image)"
    )
    seed: int = Field(default=0, ge=0)
    dtype: DType = Field(default="float32", description="bfloat16: autocast, faster on GPUs and on CPUs that have it")
    preprocessing: Preprocessing = Preprocessing()
    augmentation: Augmentation = Augmentation()
    loss: Loss = Loss()
    optimiser: Optimiser = Optimiser()
    scaling: Scaling = Scaling()

    @field_validator("model_options", mode="before")
    @classmethod
    def _typed(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Command lines and environments give strings; read them as YAML does: 8, 0.25, true, name."""
        return {name: yaml.safe_load(v) if isinstance(v, str) else v for name, v in options.items()}

    def steps_per_epoch(self, train_size: int) -> int:
        return max(1, round((self.epoch_samples or train_size) / self.batch_size))

    def what_decides_the_result(self) -> dict[str, Any]:
        """The configuration without what may differ when a run is resumed."""
        return self.model_dump(mode="json", exclude={"scaling", "output"})
