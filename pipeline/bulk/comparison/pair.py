"""Two finished runs that are compared: their rows, and which images they share."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.bulk.comparison.amounts import MEASURES, Amounts, Measure, read_amounts
from pipeline.bulk.plan import read_manifest
from pipeline.bulk.rebuild import open_run, tables_of
from pipeline.data.classes import Classes
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

MOST_IMAGES = 200_000  # of a run whose amounts are held in memory


@dataclass(frozen=True)
class Side:
    """One of two runs.

    Attributes:
        run: Folder of the run.
        manifest: Its manifest.
        images: Its rows.
        classes: Its classes.
        amounts: What its rows say about each image, with the classes that both runs have.
    """

    run: str
    manifest: dict[str, Any]
    images: "Dataset"
    classes: Classes
    amounts: Amounts

    @property
    def files(self) -> list[str]:
        """Files of its rows below the folder, in order."""
        return [file["path"] for file in self.manifest["files"]]

    @cached_property
    def tables(self) -> dict[str, pa.Table]:
        """Its report tables by name."""
        return tables_of(self.run, self.manifest)


@dataclass(frozen=True)
class Pair:
    """Two runs of one kind.

    Attributes:
        measure: How their images are measured.
        names: Classes that both have.
        earlier: The first run.
        later: The second run.
        matched: Indices into both sides' amounts of the images that both have, int64 [2, images].
        replaced: Images whose name both have with another content.
        one_in: Images of which one was read.
    """

    measure: Measure
    names: list[str]
    earlier: Side
    later: Side
    matched: NDArray[np.int64]
    replaced: int
    one_in: int

    @property
    def only(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices into the amounts of the earlier and the later run of the images that the other one does not have."""
        sides = (self.earlier, self.later)
        earlier, later = (
            np.setdiff1d(np.arange(len(side.amounts.ids)), self.matched[i]) for i, side in enumerate(sides)
        )
        return earlier, later

    @cached_property
    def change(self) -> NDArray[np.float64]:
        """How much each matched image changed; see `Measure.change`."""
        a, b = self.earlier.amounts.amounts[self.matched[0]], self.later.amounts.amounts[self.matched[1]]
        return self.measure.factor * np.abs(b - a).sum(axis=1, dtype=np.float64)

    @cached_property
    def gain(self) -> NDArray[np.float64]:
        """Change of the score of each matched image; NaN without ground truth."""
        return self.later.amounts.scores[self.matched[1]] - self.earlier.amounts.scores[self.matched[0]]


def open_pair(earlier: str, later: str) -> Pair:
    """Read two runs.

    Raises:
        UserError: A run is not there or not finished, or they cannot be compared.
    """
    runs = (earlier, later)
    manifests = [read_manifest(run) for run in runs]
    jobs = [manifest["job"] for manifest in manifests]
    if jobs[0] != jobs[1]:
        raise UserError(
            f"{storage.redact(earlier)} is a run of segpipe {jobs[0]} and {storage.redact(later)} one of segpipe "
            f"{jobs[1]}; compare two runs of one kind"
        )
    if jobs[0] not in MEASURES:
        raise UserError(f"runs of {jobs[0]} cannot be compared; those of {', '.join(MEASURES)} can")
    classes = [Classes(**manifest["classes"]) for manifest in manifests]
    names = [name for name in classes[0].names if name in classes[1].names]
    if not names:
        raise UserError(
            f"{storage.redact(earlier)} and {storage.redact(later)} have no class in common; compare runs of models "
            "with the same classes"
        )
    one_in = max(1, -(-max(manifest["images"] for manifest in manifests) // MOST_IMAGES))
    measure = MEASURES[jobs[0]]
    sides = []
    for run, manifest, own in zip(runs, manifests, classes, strict=True):
        images = open_run(run, manifest)
        read = read_amounts(images, own, measure, one_in=one_in)
        columns = [own.names.index(name) for name in names]
        sides.append(Side(run, manifest, images, own, read._replace(amounts=read.amounts[:, columns])))
    matched, replaced = match(sides[0].amounts, sides[1].amounts)
    return Pair(measure, names, sides[0], sides[1], matched, replaced, one_in)


def match(earlier: Amounts, later: Amounts) -> tuple[NDArray[np.int64], int]:
    """Return the indices of the images that both have, int64 [2, images], and how many have another content."""
    places = {name: i for i, name in enumerate(earlier.ids)}
    pairs, replaced = [], 0
    for j, name in enumerate(later.ids):
        i = places.get(name)
        if i is None:
            continue
        if earlier.digests[i] == later.digests[j]:
            pairs.append((i, j))
        else:
            replaced += 1
    return np.array(pairs, np.int64).reshape(-1, 2).T, replaced
