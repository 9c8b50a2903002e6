"""Options that every training run has, whatever it learns."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.data.preprocessing import DType, Preprocessing
from pipeline.storage import Url


class OptionGroup(BaseModel):
    """A group of options: unknown ones are refused, and nothing changes after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimiser(OptionGroup):
    """How the optimiser updates the weights."""

    kind: Literal["sgd", "adam", "adamw"] = Field(
        default="sgd", description="optimiser: sgd (with momentum), adam or adamw"
    )
    lr: float = Field(default=0.01, gt=0, description="learning rate, which the schedule multiplies by a factor")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of sgd")
    nesterov: bool = Field(default=False, description="Nesterov's momentum for sgd")
    weight_decay: float = Field(
        default=1e-4,
        ge=0,
        description="factor of the weight decay, an L2 penalty (decoupled from the gradient with adamw)",
    )
    lr_of: dict[str, float] = Field(
        default={},
        description="learning rate multipliers, PART=FACTOR. A part is backbone, head (all but the backbone), score "
        "(the layers that give the classes' scores), bias, norm, or the beginning of a parameter's name, as in "
        "backbone.layer1=0.1; the factors of all parts that apply are multiplied",
    )
    decay_of: dict[str, float] = Field(
        default={}, description="weight decay multipliers, PART=FACTOR, with the parts of --optimiser.lr-of"
    )
    clip: float | None = Field(
        default=None,
        gt=0,
        description="largest L2 norm of a step's gradient; a larger gradient is scaled down (default: no limit)",
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="parts of its batch that a worker computes one after the other to save memory; the gradient stays "
        "that of the whole batch",
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay per step of an exponential moving average of the weights, which is validated and stored in "
        "place of the weights; in step n it is at most n / (n + 9), so that the random first weights are forgotten",
    )
    average_from: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of the run after which the mean of the weights over all further steps is validated and "
        "stored in place of the weights (stochastic weight averaging, Izmailov et al., UAI 2018)",
    )

    @model_validator(mode="after")
    def _one_average(self) -> "Optimiser":
        if self.ema is not None and self.average_from is not None:
            raise ValueError("--optimiser.ema and --optimiser.average-from exclude each other")
        return self

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "Optimiser":
        if self.kind == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("--optimiser.nesterov needs an --optimiser.momentum above 0")
        return self


class Schedule(OptionGroup):
    """How the learning rate changes over the steps of a run."""

    kind: Literal["poly", "step", "cosine", "exponential", "constant"] = Field(
        default="poly",
        description="how the learning rate falls. poly: (1 - step / steps)^power (DeepLab v2, section 4.1). step: in "
        "drops, at --schedule.every or --schedule.at. exponential: continuously. cosine: over half a period. constant: "
        "not at all",
    )
    power: float = Field(default=0.9, ge=0, description="exponent of poly")
    gamma: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="factor of each drop of step, and of every --schedule.every steps of exponential",
    )
    every: int | None = Field(
        default=None,
        ge=1,
        description="steps between the drops of step; steps in which exponential falls by the factor gamma",
    )
    at: tuple[float, ...] = Field(
        default=(), description="positions of the drops of step, as shares of the run: 0.3,0.6,0.8"
    )
    floor: float = Field(
        default=0.0,
        ge=0,
        description="smallest learning rate after the warm-up, before the multipliers of --optimiser.lr-of",
    )
    warmup: int = Field(default=0, ge=0, description="steps over which the learning rate first rises linearly")

    @model_validator(mode="after")
    def _complete(self) -> "Schedule":
        if self.kind == "step" and self.every is None and not self.at:
            raise ValueError("the schedule step needs --schedule.every or --schedule.at")
        if self.kind == "exponential" and self.every is None:
            raise ValueError("the schedule exponential needs --schedule.every")
        if any(not 0 < share < 1 for share in self.at):
            raise ValueError("--schedule.at: shares of the run must lie between 0 and 1")
        return self


class BatchNorm(OptionGroup):
    """How batch normalisation works in training."""

    mode: Literal["local", "synchronised", "frozen"] = Field(
        default="local",
        description="local: statistics of each worker's part of the batch. synchronised: statistics of the whole "
        "batch. frozen: statistics and weights stay as they are at the start",
    )
    recompute: int = Field(
        default=0,
        ge=0,
        description="forward passes that recompute the statistics before each validation (SegNet, DeconvNet)",
    )


class TrainingScaling(OptionGroup):
    """Where training runs."""

    num_workers: int = Field(default=1, ge=1, description="training processes, each with a GPU if --scaling.use-gpu")
    min_workers: int | None = Field(
        default=None,
        ge=1,
        description="train with no fewer workers than this while nodes are missing, and add the others when nodes come",
    )
    use_gpu: bool = Field(default=False, description="give each worker a GPU")
    cpus_per_worker: int = Field(default=1, ge=1, description="CPUs that Ray reserves for each worker")
    max_failures: int = Field(
        default=3,
        ge=0,
        description="number of times that lost workers are replaced, after which the run stops with an error",
    )
    wait_for_nodes: bool = Field(
        default=False, description="start even if the cluster is too small, because an autoscaler will add nodes"
    )


class Tracking(OptionGroup):
    """Where the progress of a run is written besides `metrics.jsonl`."""

    tensorboard: bool = Field(
        default=False, description="write event files to OUTPUT/tensorboard (needs segpipe[tensorboard])"
    )
    mlflow: bool = Field(
        default=False, description="report to the server that MLFLOW_TRACKING_URI names (needs segpipe[mlflow])"
    )


class TrainerConfig(OptionGroup):
    """Options that every training run has, whatever it learns."""

    model: str = Field(description="architecture; segpipe models lists them")
    model_options: dict[str, Any] = Field(
        default={}, description="options of the architecture, NAME=VALUE, as in width=0.25 or output_stride=8"
    )
    weights: Url | None = Field(
        default=None, description="initial weights: a torchvision checkpoint (.pth, .safetensors) or a bundle"
    )
    output: Url = Field(description="folder for the bundle, metrics.jsonl and checkpoints; any fsspec URL")
    epochs: int = Field(default=50, ge=1, description="epochs to train")
    batch_size: int = Field(default=8, ge=1, description="images in a step, over all workers")
    epoch_samples: int | None = Field(
        default=None, ge=1, description="examples drawn in an epoch (default: one per training image)"
    )
    seed: int = Field(default=0, ge=0, description="seed of all random numbers")
    freeze: tuple[str, ...] = Field(
        default=(), description="beginnings of the names of parameters that do not learn, as in backbone.layer1"
    )
    dtype: DType = Field(
        default="float32",
        description="precision of the network. float32. bfloat16: autocast, faster on GPUs and on CPUs that have it. "
        "float16: autocast with "
        "loss scaling",
    )
    compile: bool = Field(
        default=False, description="use torch.compile: the first step takes minutes, the others less time"
    )
    preprocessing: Preprocessing = Preprocessing()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    batch_norm: BatchNorm = BatchNorm()
    scaling: TrainingScaling = TrainingScaling()
    tracking: Tracking = Tracking()

    @field_validator("model_options", mode="before")
    @classmethod
    def _typed(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Read the strings of command lines and environments as YAML does: 8, 0.25, true, name."""
        import yaml

        return {name: yaml.safe_load(v) if isinstance(v, str) else v for name, v in options.items()}

    def steps_per_epoch(self, train_size: int) -> int:
        """Return the number of steps in an epoch, for `train_size` training images."""
        return max(1, round((self.epoch_samples or train_size) / self.batch_size))

    def deciding_options(self) -> dict[str, Any]:
        """Return the options that decide the result; the others may differ when a run is resumed."""
        return self.model_dump(mode="json", exclude={"scaling", "output", "tracking"})
