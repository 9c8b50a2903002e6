#!/usr/bin/env python3
"""List the architectures, the classifiers and the detectors: paper, parameters, operations, output stride and memory.

jobs/models.py [--markdown] [--size 512,512] [--num-classes 21]

GMACs are billions of multiply-accumulate operations in a forward pass of one image. Memory is what a float32 training
step keeps of one image for the backward pass. The cost of a detector depends on its proposals, so only its trainable
parameters are listed.
"""

from pydantic import BaseModel, Field

from pipeline import cli

HEADER = ("name", "paper", "parameters", "GMACs", "stride", "memory")


class ModelsConfig(BaseModel):
    """The options of `jobs/models.py`."""

    num_classes: int = Field(default=21, ge=2, description="number of classes")
    size: tuple[int, int] = Field(default=(512, 512), description="height,width of the image in pixels")
    markdown: bool = Field(default=False, description="print a Markdown table")


def rows(config: ModelsConfig) -> list[tuple[str, ...]]:
    """Return a row of texts for each architecture."""
    import torch
    from tqdm import tqdm

    from pipeline.models import ARCHITECTURES, CLASSIFIERS, count_parameters
    from pipeline.models.detection import DETECTORS
    from pipeline.models.profile import profile

    table: list[tuple[str, ...]] = []
    for name, architecture in tqdm((ARCHITECTURES | CLASSIFIERS).items(), leave=False, disable=None, unit="model"):
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
    for name, detector in DETECTORS.items():
        with torch.device("meta"):
            parameters = count_parameters(detector.build(config.num_classes))
        table.append((name, detector.paper, f"{parameters / 1e6:.2f} M", "–", "–", "–"))
    return table


def main(argv: list[str]) -> None:
    config = cli.parse(ModelsConfig, argv, description=__doc__ or "")
    table = [HEADER, *rows(config)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADER))]
    for i, row in enumerate(table):
        cells = [c.ljust(w) if j < 2 else c.rjust(w) for j, (c, w) in enumerate(zip(row, widths, strict=True))]
        print(f"| {' | '.join(cells)} |" if config.markdown else "  ".join(cells).rstrip())
        if config.markdown and i == 0:
            print("|" + "|".join("-" * (w + 2) if j < 2 else "-" * (w + 1) + ":" for j, w in enumerate(widths)) + "|")


if __name__ == "__main__":
    cli.run(main)
