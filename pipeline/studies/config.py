"""The options of the studies."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg

from pipeline.storage import Url

Count = Annotated[int, Field(ge=1)]


class LesionConfig(BaseModel):
    """The options of `segpipe study-lesions`."""

    model_config = ConfigDict(extra="forbid")

    study: ClassVar[str] = "lesions"

    model: Url = Field(description="bundle of a classifier or of a segmentation network")
    images: Url = Field(description="folder of images; for a classifier without --labels, of a folder for each class")
    labels: Url | None = Field(
        default=None,
        description="for a segmentation network, the folder of label maps; for a classifier, a table (.csv, .parquet) "
        "of image and label, or a folder of Pascal VOC .xml files",
    )
    list: Url | None = Field(
        default=None,
        description="text file that names the images to use, one path below the folder per line (default: all)",
    )
    output: Url = Field(description="folder, any fsspec URL, in which the study's folder study_id=… is created")
    study_id: str | None = Field(
        default=None,
        pattern=r"^[\w.-]+$",
        description="name of the study (default: derived from the model and the options, so that the same command "
        "resumes its study)",
    )
    limit: int = Field(default=1000, ge=1, description="largest number of images; more are thinned at random")
    counts: tuple[Count, ...] = Field(
        default=(1, 2, 3, 5, 7, 10, 14, 20), description="numbers of blocks that are removed at a time"
    )
    swaps: tuple[Count, ...] = Field(
        default=(1, 2, 4, 8, 16, 32), description="numbers of pairs of blocks that are swapped"
    )
    draws: int = Field(default=10, ge=1, description="random draws of each number of blocks or pairs")
    path_draws: int = Field(
        default=20, ge=0, description="random paths of each length whose gradient is measured; 0 for none (paper: 1000)"
    )
    path_images: int = Field(default=8, ge=1, description="images of the batch whose gradient is measured")
    seed: int = Field(default=0, ge=0, description="seed of all draws")
    use_gpu: bool = Field(default=False, description="let each task compute on a GPU")


class StudyConfig(BaseModel):
    """The options of `segpipe study`."""

    model_config = ConfigDict(extra="forbid")

    study: CliPositionalArg[str] = Field(
        description="name of a study, or the URL of a description (.yaml); list prints the names"
    )
    options: Url | None = Field(
        default=None,
        description="YAML file with your data and your budget: options of each step's job below the name of the step",
    )
    output: Url | None = Field(
        default=None, description="folder, any fsspec URL, in which the study's folder study_id=… is created"
    )
    study_id: str | None = Field(
        default=None, pattern=r"^[\w.-]+$", description="name of the study's folder (default: the name of the study)"
    )
    seeds: int | None = Field(
        default=None, ge=1, description="trials of each variant with different seeds (default: the description's)"
    )
    parallel: int = Field(
        default=1, ge=1, description="trials that run at a time; each needs the workers of its jobs on the cluster"
    )
