"""The options of `segpipe segment`, `segpipe evaluate` and `segpipe tune-crf`."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.bulk.config import BulkConfig
from pipeline.crf.params import CRFParams, Mode
from pipeline.data import presets
from pipeline.data.naming import LabelNames
from pipeline.data.preprocessing import DType, Instances, TTAOptions, Windows
from pipeline.data.presets import DatasetSplit
from pipeline.storage import Url

CRFDevice = Literal["auto", "cpu", "gpu"]


class SegmentConfig(BulkConfig, LabelNames, DatasetSplit):
    """The options of `segpipe segment`."""

    job: ClassVar[str] = "segment"

    labels: Url | None = Field(
        default=None, description="folder of label maps to score the masks against, paired by path"
    )
    classes: Url | None = Field(default=None, description="class file of the labels, if it is not the model's")
    instances: Instances = Instances()
    windows: Windows = Windows()
    tta: TTAOptions = TTAOptions()
    compile: bool | None = Field(
        default=None,
        description="compile the network for the shapes of full batches (default: on a GPU, if the run has 100,000 "
        "images or more: compiling takes a minute); on a CPU it takes some 10 seconds a shape, and a C++ compiler",
    )
    crf: bool = Field(default=False, description="refine the masks by a dense CRF")
    crf_device: CRFDevice = Field(
        default="auto",
        description="where the CRF runs. cpu: in CPU tasks beside the predictors. gpu: in the predictors, on their "
        "GPUs; mode fast is pruned there. auto: gpu if the predictors have GPUs. A GPU refines as many images as some "
        "30 cores",
    )
    crf_mode: Mode = Field(
        default="pruned",
        description="exact: full mean field. pruned: merge the classes that an image does not contain into one (labels "
        "differ "
        "at under 1 of 10,000 pixels). fast: also merge pixels far from any edge (labels differ at 1 of 400)",
    )
    crf_params: CRFParams = CRFParams()

    @model_validator(mode="before")
    @classmethod
    def _of_dataset(cls, values: Any) -> Any:
        """Set what is not given and `dataset` knows."""
        return presets.with_dataset(values, takes_list=False)

    @model_validator(mode="after")
    def _two_folders(self) -> "SegmentConfig":
        if self.labels is not None and self.labels.rstrip("/") == self.images.rstrip("/"):
            raise ValueError(
                "--images and --labels are one folder, so label maps would be segmented, too; name the images by a "
                "glob, as in --images 'photos/*.jpg'"
            )
        return self

    @model_validator(mode="after")
    def _crf_is_on(self) -> "SegmentConfig":
        if not self.crf and (self.crf_mode, self.crf_device, self.crf_params) != ("pruned", "auto", CRFParams()):
            raise ValueError("--crf-mode, --crf-device and --crf-params need --crf")
        return self

    @model_validator(mode="after")
    def _boxes_or_windows(self) -> "SegmentConfig":
        if self.instances.proposals and (self.tta != TTAOptions() or self.windows != Windows()):
            raise ValueError(
                "--tta and --windows do not work with --instances.proposals, which resizes every box to the network's "
                "input; leave one of them out"
            )
        return self


class EvaluateConfig(LabelNames, DatasetSplit):
    """The options of `segpipe evaluate`."""

    run: Url = Field(description="folder of a finished run: OUTPUT/run_id=…")
    labels: Url = Field(description="folder of label maps, paired with the images by name")
    classes: Url | None = Field(default=None, description="class file of the labels, if it is not the run's")
    output: Url | None = Field(
        default=None, description="folder to which the tables are written (default: they are only printed)"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_dataset(cls, values: Any) -> Any:
        """Set what is not given and `dataset` knows; the images are those of the run."""
        filled = presets.with_dataset({"images": "of the run", "list": None} | values)
        return {name: value for name, value in filled.items() if name not in ("images", "list")}


class TuneConfig(LabelNames):
    """The options of `segpipe tune-crf`."""

    model: Url = Field(description="bundle: the output folder of segpipe train")
    images: Url = Field(description="folder of validation images")
    labels: Url = Field(description="folder of their label maps, paired by name")
    classes: Url | None = Field(default=None, description="class file of the labels, if it is not the model's")
    output: Url = Field(description="folder for the table of trials, trials.parquet")
    max_images: int = Field(
        default=100, ge=1, description="largest number of images to search on, evenly spaced over the folder"
    )
    w1: tuple[float, ...] = Field(
        default=(3, 5, 10), min_length=1, description="weights of the bilateral kernel (w1) in the coarse search"
    )
    sigma_alpha: tuple[float, ...] = Field(
        default=(30, 60, 90), min_length=1, description="values of sigma_alpha in the coarse search, in pixels"
    )
    sigma_beta: tuple[float, ...] = Field(
        default=(3, 6, 10), min_length=1, description="values of sigma_beta in the coarse search, in grey levels"
    )
    fine_rounds: int = Field(default=1, ge=0, description="rounds of finer search around the best setting")
    class_factors: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(1.5, 2.0),
        description="factors of a class's compatibility to try for each class that the best setting makes worse (the "
        "ten that lose most), and then the best factor of each class together; above 1, thin and rare classes keep "
        "their pixels",
    )
    crf_mode: Mode = Field(default="pruned", description="mode of the CRF; see segpipe segment")
    crf_device: CRFDevice = Field(
        default="auto",
        description="where the CRF runs. cpu: in CPU tasks. gpu: on the network's GPU. auto: gpu if there is one",
    )
    crf_params: CRFParams = Field(
        default=CRFParams(), description="default setting to beat, and values of the parameters that are not searched"
    )
    dtype: DType = Field(
        default="float32", description="precision of the network: float32, or bfloat16 or float16 by autocast"
    )
