"""List the architectures, the classifiers and the detectors: paper, parameters, operations, output stride and memory.

GMACs are billions of multiply-accumulate operations in a forward pass of one image. Memory is what a float32 training
step keeps of one image for the backward pass. The cost of a detector depends on its proposals, so only its trainable
parameters are listed.

Examples:
    segpipe models
    segpipe models unet rcnn
    segpipe models --size 1024,2048 --num-classes 19 --markdown
"""

from pydantic import BaseModel, Field
from pydantic_settings import CliPositionalArg

from pipeline import cli
from pipeline.errors import UserError
from pipeline.suggestions import did_you_mean

HEADER = ("name", "paper", "parameters", "GMACs", "stride", "memory")


class ModelsConfig(BaseModel):
    """The options of `segpipe models`."""

    names: CliPositionalArg[list[str]] = Field(
        default=[], description="names of models, or parts of names as in rcnn (default: all models)"
    )
    num_classes: int = Field(default=21, ge=2, description="number of classes")
    size: tuple[int, int] = Field(default=(512, 512), description="height,width of the image in pixels")
    markdown: bool = Field(default=False, description="print a Markdown table")


def rows(config: ModelsConfig) -> list[tuple[str, ...]]:
    """Return a row of texts for each model that the configuration names.

    Raises:
        UserError: No model has such a name.
    """
    from pipeline.models import all_models, count_parameters
    from pipeline.models.profile import profile
    from pipeline.models.weightless import weightless

    table: list[tuple[str, ...]] = []
    models = all_models()
    for name in _chosen(list(models), config.names):
        architecture = models[name]
        if architecture.task == "detection":
            with weightless():
                parameters = count_parameters(architecture.build(config.num_classes))
            table.append((name, architecture.paper, f"{parameters / 1e6:.2f} M", "–", "–", "–"))
            continue
        cost = profile(architecture, num_classes=config.num_classes, size=config.size)
        table.append(
            (
                name,
                architecture.paper,
                f"{cost.parameters / 1e6:.2f} M",
                f"{cost.macs / 1e9:,.1f}",
                str(cost.output_stride),
                f"{cost.activation_bytes / 2**20:,.0f} MiB",
            )
        )
    return table


def _chosen(models: list[str], names: list[str]) -> list[str]:
    """Return the models of which a name is given, or that have a part of a name."""
    for name in names:
        if not any(name in model for model in models):
            hint = did_you_mean(name, models, otherwise="segpipe models lists all")
            raise UserError(f"no model is named '{name}'; {hint}")
    return [model for model in models if not names or any(name in model for name in names)]


CONFIG = ModelsConfig


def main(argv: list[str]) -> None:
    """Print the table of networks."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    table = [HEADER, *rows(config)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADER))]
    for i, row in enumerate(table):
        cells = [c.ljust(w) if j < 2 else c.rjust(w) for j, (c, w) in enumerate(zip(row, widths, strict=True))]
        print(f"| {' | '.join(cells)} |" if config.markdown else "  ".join(cells).rstrip())
        if config.markdown and i == 0:
            print("|" + "|".join("-" * (w + 2) if j < 2 else "-" * (w + 1) + ":" for j, w in enumerate(widths)) + "|")
