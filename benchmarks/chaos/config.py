"""The options of the faults benchmark."""

from pathlib import Path

from pydantic import BaseModel, Field

from benchmarks.chaos.episode import Episode
from benchmarks.chaos.plans import FULL, SHORT, scaled
from pipeline.errors import UserError


class ChaosConfig(BaseModel):
    """The options of `python -m benchmarks.chaos`."""

    seed: int = Field(default=1, description="seed of the moments, the targets and the requests that fail")
    images: int | None = Field(default=None, ge=50, description="images of each run (default: 2000, or 300)")
    faults: int | None = Field(
        default=None, ge=1, description="smallest number of faults that are planned (default: 60, or 12)"
    )
    short: bool = Field(default=False, description="fewer images, faults and episodes")
    only: tuple[str, ...] = Field(default=(), description="names of the episodes to run (default: all)")
    pace: float | None = Field(
        default=None,
        gt=0,
        description="most images per second that the proxy hands out, so that a run lasts long enough for its faults "
        "(default: 40, or 15)",
    )
    output: Path | None = Field(default=None, description="JSON file for the results")

    @property
    def image_count(self) -> int:
        """Images of each run."""
        return self.images or (300 if self.short else 2000)

    @property
    def images_per_second(self) -> float:
        """Most images per second that the proxy hands out."""
        return self.pace or (15 if self.short else 40)

    @property
    def episodes(self) -> list[Episode]:
        """The episodes to run.

        Raises:
            UserError: A name is not that of an episode.
        """
        planned = scaled(SHORT, self.faults or 12) if self.short else scaled(FULL, self.faults or 60)
        names = [episode.name for episode in planned]
        if unknown := set(self.only) - set(names):
            raise UserError(f"--only: no episode is named {', '.join(sorted(unknown))}; there are {', '.join(names)}")
        return [episode for episode in planned if not self.only or episode.name in self.only]
