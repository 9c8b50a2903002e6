"""Reading a whole data set in parallel to find what is wrong with it, before a training run does."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from pipeline import cluster, storage
from pipeline.data import images
from pipeline.data.classes import Classes, load_classes
from pipeline.data.datasets import Sample, pair, read_list
from pipeline.data.transforms import Augmentation
from pipeline.errors import UserError
from pipeline.storage import Url
from pipeline.training.segmentation.preview import draw_preview, from_recipe

CHUNK = 64  # samples in a task
THREADS = 8


class InspectConfig(BaseModel):
    """The options of `jobs/validate.py`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: Url = Field(description="folder of images, any fsspec URL")
    labels: Url = Field(description="folder of label maps")
    classes: Url = Field(description="class file (YAML)")
    list: Url | None = Field(default=None, description="file of keys, one a line, to take only these")
    report: Url | None = Field(default=None, description="write everything found to this JSON file")
    show: int = Field(default=20, ge=0, description="problems to print of each kind")
    preview: Url | None = Field(default=None, description="draw training crops on this PNG, augmented as below")
    recipe: Url | None = Field(default=None, description="preview: take augmentation and seed from this recipe (YAML)")
    augmentation: Augmentation = Augmentation()
    seed: int = Field(default=0, ge=0, description="preview: of the crops")


@dataclass(frozen=True)
class Problem:
    """Something wrong: `kind` for scripts, `where` a key or URL, `what` for people."""

    kind: str
    where: str
    what: str


@dataclass
class Inspection:
    """What was found in a data set.

    Attributes:
        samples: pairs of image and label map.
        pixels: pixels of each class, in the order of classes.
        present: samples in which each class occurs.
        ignored: pixels of the ignore index.
        problems: in the order of their kind and place.
    """

    samples: int
    pixels: list[int]
    present: list[int]
    ignored: int = 0
    problems: list[Problem] = field(default_factory=list)


def inspect(config: InspectConfig) -> tuple[Inspection, Classes]:
    """Read every image and label map of a data set on the cluster.

    Raises:
        UserError: a folder, list or class file cannot be used at all.
    """
    classes = load_classes(config.classes)
    pairing = pair(config.images, config.labels, keys=read_list(config.list) if config.list else None)
    problems = [Problem("image_without_label", key, "no label map of this name") for key in pairing.without_label]
    problems += [Problem("label_without_image", key, "no image of this name") for key in pairing.without_image]
    found = Inspection(len(pairing.samples), [0] * len(classes), [0] * len(classes), problems=problems)
    if pairing.samples:
        cluster.connect()
        for chunk in _read_all(pairing.samples, classes):
            found.pixels = [a + b for a, b in zip(found.pixels, chunk["pixels"], strict=True)]
            found.present = [a + b for a, b in zip(found.present, chunk["present"], strict=True)]
            found.ignored += chunk["ignored"]
            found.problems += [Problem(**problem) for problem in json.loads(chunk["problems"])]
    if config.preview:
        settings, seed = from_recipe(config.recipe) if config.recipe else (config.augmentation, config.seed)
        try:
            sheet = draw_preview(pairing.samples, classes, augmentation=settings, seed=seed)
            storage.write_bytes(config.preview, sheet)
        except UserError as error:  # training would stop here as well
            found.problems.append(Problem("no_preview", config.preview, str(error)))
    found.problems.sort(key=lambda problem: (problem.kind, problem.where))
    if config.report:
        storage.write_bytes(config.report, json.dumps(asdict(found), indent=2).encode())
    return found, classes


def _read_all(samples: list[Sample], classes: Classes) -> Iterator[dict[str, Any]]:
    ray.data.DataContext.get_current().enable_progress_bars = False
    chunks = [{"samples": json.dumps(samples[i : i + CHUNK])} for i in range(0, len(samples), CHUNK)]
    summaries = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map(Inspector(classes))
    with tqdm(total=len(samples), unit="images", disable=not sys.stderr.isatty(), leave=False) as bar:
        for chunk in summaries.iter_rows():
            bar.update(min(CHUNK, len(samples) - bar.n))
            yield chunk


class Inspector:
    """Reads a chunk of samples; sums up what is in them."""

    def __init__(self, classes: Classes):
        self._classes = classes

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        samples = [Sample(*fields) for fields in json.loads(row["samples"])]
        with ThreadPoolExecutor(THREADS) as pool:
            results = list(pool.map(self._inspect, samples))
        counts = np.array([counts for counts, _ in results])
        problems = [asdict(problem) for _, found in results for problem in found]
        return {
            "pixels": counts[:, :-1].sum(axis=0).tolist(),
            "present": (counts[:, :-1] > 0).sum(axis=0).tolist(),
            "ignored": int(counts[:, -1].sum()),
            "problems": json.dumps(problems),
        }

    def _inspect(self, sample: Sample) -> tuple[NDArray[np.int64], list[Problem]]:
        """Pixels of each class and, last, of the ignore index; and what is wrong."""
        problems = []
        counts = np.zeros(len(self._classes) + 1, np.int64)
        size = None
        try:
            pixels, orientation = images.decode_image(storage.read_bytes(sample.image))
            size = images.from_upright(pixels, orientation).shape[:2]
        except (images.ImageError, OSError) as error:
            problems.append(Problem("unreadable_image", sample.image, _reason(error)))
        try:
            raw = images.decode_raw_label(storage.read_bytes(sample.label))
        except (images.ImageError, OSError) as error:
            problems.append(Problem("unreadable_label", sample.label, _reason(error)))
            return counts, problems
        if size is not None and raw.shape != size:
            sizes = ["x".join(map(str, shape[::-1])) for shape in (raw.shape, size)]
            problems.append(Problem("size_mismatch", sample.label, f"{sizes[0]}, but its image is {sizes[1]}"))
        unknown = self._classes.unknown(raw)
        if unknown:
            values = ", ".join(f"{value} ({n} pixels)" for value, n in unknown.items())
            problems.append(Problem("value_outside_classes", sample.label, values))
        labels = self._classes.index(raw)
        inside = labels[(labels >= 0) & (labels < len(self._classes))]
        counts[:-1] = np.bincount(inside, minlength=len(self._classes))
        counts[-1] = int((labels == self._classes.ignore_index).sum())
        if counts[-1] == labels.size:
            problems.append(Problem("nothing_labelled", sample.label, "every pixel is ignored"))
        return counts, problems


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, images.ImageError) else storage.explain(error)


def describe(found: Inspection, classes: Classes, *, show: int) -> str:
    """The inspection as text: class shares, then some problems of each kind, then one line that sums up."""
    total = max(1, sum(found.pixels) + found.ignored)
    width = max(len("(ignored)"), *map(len, classes.names))
    lines = [f"{'class':<{width}}   pixels  in images"]
    for name, pixels, present in zip(classes.names, found.pixels, found.present, strict=True):
        lines.append(f"{name:<{width}}  {pixels / total:7.2%}  {present:9,}")
    lines.append(f"{'(ignored)':<{width}}  {found.ignored / total:7.2%}")
    kinds = Counter(problem.kind for problem in found.problems)
    for kind, count in kinds.items():
        lines.append(f"\n{kind}: {count}")
        members = [problem for problem in found.problems if problem.kind == kind]
        lines += [f"  {problem.where}: {problem.what}" for problem in members[:show]]
        if count > show:
            lines.append(f"  … and {count - show} more")
    summary = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no problems"
    lines.append(f"\n{found.samples:,} pairs of image and label: {summary}")
    return "\n".join(lines)
