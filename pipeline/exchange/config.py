"""The options of `segpipe export-model`."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import CliPositionalArg

from pipeline.storage import Url

Side = Annotated[int, Field(ge=1, le=16_384)]


class ExportModelConfig(BaseModel):
    """The options of `segpipe export-model`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: CliPositionalArg[Url] = Field(description="bundle: the output folder of segpipe train, or hf://OWNER/NAME")
    onnx: Url | None = Field(default=None, description="ONNX file to write (needs segpipe[onnx])")
    size: tuple[Side, Side] | None = Field(
        default=None, description="height, width of all images of the ONNX file (default: any size)"
    )
    hub: str | None = Field(
        default=None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="OWNER/NAME of a repository on the Hugging Face Hub to push the bundle to (needs segpipe[hub])",
    )
    private: bool = Field(default=False, description="make the repository private if it has to be created")
    folder: Url | None = Field(
        default=None, description="folder to write what --hub would push: the bundle with a model card, README.md"
    )

    @model_validator(mode="after")
    def _writes_something(self) -> "ExportModelConfig":
        if not (self.onnx or self.hub or self.folder):
            raise ValueError("name what to write: --onnx FILE, --hub OWNER/NAME or --folder URL")
        if self.size and not self.onnx:
            raise ValueError("--size needs --onnx")
        return self
