"""Reading a whole data set in parallel to find what is wrong with it, before a training run does."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import faults, storage
from pipeline.data import images
from pipeline.data.classes import INVALID, Classes, load_classes
from pipeline.data.datasets import Sample, pair, read_list
from pipeline.errors import UserError
from pipeline.training.problems import Problem, format_problems, summarise_problems
from pipeline.training.segmentation.config import InspectConfig
from pipeline.training.segmentation.doubts import Doubt, find_doubts, format_doubt

CHUNK = 64  # samples in a task
MOST_VALUES = 4096  # stored values that are counted: photographs in place of label maps have any number
THREADS = 8


@dataclass
class Inspection:
    """The content of a data set.

    Attributes:
        samples: Pairs of image and label map.
        pixels: Pixels of each class, in the order of the classes.
        present: Samples in which each class occurs.
        ignored: Pixels of the ignore index.
        values: Pixels of each stored value, the most frequent `MOST_VALUES` of them.
        problems: Problems, ordered by kind and place.
        warnings: Signs that the class file does not describe these label maps.
        advice: Options under which more images would have a label map, as a clause, "; with …".
    """

    samples: int
    pixels: list[int]
    present: list[int]
    ignored: int = 0
    values: dict[int, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Doubt] = field(default_factory=list)
    advice: str = ""


class ChunkInspection(NamedTuple):
    """The content of some samples.

    Attributes:
        counts: int64 [samples, classes + 1], pixels of each class and, last, of the ignore index.
        values: Pixels of each stored value, the most frequent `MOST_VALUES` of them.
        problems: Problems of the samples.
    """

    counts: NDArray[np.int64]
    values: Counter[int]
    problems: list[Problem]


def inspect(config: InspectConfig) -> tuple[Inspection, Classes]:
    """Read every image and label map of a data set on the cluster.

    Raises:
        UserError: A folder, list or class file cannot be used at all.
    """
    assert config.classes is not None
    assert config.labels is not None
    classes = load_classes(config.classes)
    keys = read_list(config.list) if config.list else None
    pairing = pair(config.images, config.labels, keys=keys, names=config)
    problems = [Problem("image_without_label", key, "no label map of this name") for key in pairing.without_label]
    problems += [Problem("label_without_image", key, "no image of this name") for key in pairing.without_image]
    found = Inspection(
        len(pairing.samples), [0] * len(classes), [0] * len(classes), problems=problems, advice=pairing.advice
    )
    if pairing.samples:
        from pipeline import cluster

        cluster.connect()
        chunks = [pairing.samples[i : i + CHUNK] for i in range(0, len(pairing.samples), CHUNK)]
        counts, sizes = np.zeros((2, len(classes) + 1), np.int64), [len(chunk) for chunk in chunks]
        values = Counter[int]()
        for chunk in cluster.map_tasks(
            inspect_chunk, [(chunk, classes) for chunk in chunks], sizes=sizes, title="reading"
        ):
            counts += np.stack([chunk.counts.sum(axis=0), (chunk.counts > 0).sum(axis=0)])
            values = Counter(dict((values + chunk.values).most_common(MOST_VALUES)))
            found.problems += chunk.problems
        found.values = dict(sorted(values.items()))
        found.pixels, found.present = counts[0, :-1].tolist(), counts[1, :-1].tolist()
        found.ignored = int(counts[0, -1])
        doubts = find_doubts(classes, pixels=found.pixels, values=found.values)
        found.warnings = [doubt for doubt in doubts if doubt.kind != "one_class"]
        useless = [doubt for doubt in doubts if doubt.kind == "one_class"]
        found.problems += [Problem(doubt.kind, config.labels, format_doubt(doubt)) for doubt in useless]
    if config.preview:
        from pipeline.training.segmentation.preview import draw_preview, read_recipe

        settings, seed = config.augmentation, config.seed
        if config.recipe:  # which other options precede
            settings, its_seed = read_recipe(config.recipe)
            settings = settings.model_copy(update=config.augmentation.model_dump(exclude_unset=True))
            seed = seed if "seed" in config.model_fields_set else its_seed
        try:
            sheet = draw_preview(pairing.samples, classes, augmentation=settings, seed=seed)
            storage.write_bytes(config.preview, sheet)
        except UserError as error:  # training would stop here as well
            found.problems.append(Problem("no_preview", config.preview, str(error)))
    found.problems.sort(key=lambda problem: (problem.kind, problem.where))
    if config.report:
        storage.write_bytes(config.report, json.dumps(asdict(found), indent=2).encode())
    return found, classes


def inspect_chunk(samples: list[Sample], classes: Classes) -> ChunkInspection:
    """Read some samples and count what is in them."""
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(partial(_inspect, classes=classes), samples))
    values = sum((found for _, found, _ in results), Counter[int]())
    return ChunkInspection(
        counts=np.array([counts for counts, _, _ in results]),
        values=Counter(dict(values.most_common(MOST_VALUES))),
        problems=[problem for _, _, found in results for problem in found],
    )


def _inspect(sample: Sample, classes: Classes) -> tuple[NDArray[np.int64], Counter[int], list[Problem]]:
    """Return the pixels of each class and, last, of the ignore index, those of each stored value, and the problems."""
    problems = []
    counts = np.zeros(len(classes) + 1, np.int64)
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
        return counts, Counter(), problems
    if size is not None and raw.shape != size:
        sizes = ["x".join(map(str, shape[::-1])) for shape in (raw.shape, size)]
        problems.append(Problem("size_mismatch", sample.label, f"{sizes[0]}, but its image is {sizes[1]}"))
    labels = classes.index(raw)
    if (labels == INVALID).any():
        unknown = classes.unknown(raw)
        text = ", ".join(f"{value} ({n} pixels)" for value, n in unknown.items())
        problems.append(Problem("value_outside_classes", sample.label, text, tuple(unknown)))
    inside = labels[(labels >= 0) & (labels < len(classes))]
    counts[:-1] = np.bincount(inside, minlength=len(classes))
    counts[-1] = int((labels == classes.ignore_index).sum())
    if counts[-1] == labels.size:
        problems.append(Problem("nothing_labelled", sample.label, "every pixel is ignored"))
    values, numbers = np.unique(raw, return_counts=True)
    stored = Counter(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return counts, Counter(dict(stored.most_common(MOST_VALUES))), problems


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, images.ImageError) else faults.explain(error)


def format_inspection(found: Inspection, classes: Classes, *, show: int) -> str:
    """Format class shares, then up to `show` problems of each kind, then one line that sums up."""
    total = max(1, sum(found.pixels) + found.ignored)
    width = max(len("(ignored)"), *map(len, classes.names))
    lines = [f"{'class':<{width}}   pixels  in images"]
    for name, pixels, present in zip(classes.names, found.pixels, found.present, strict=True):
        lines.append(f"{name:<{width}}  {pixels / total:7.2%}  {present:9,}")
    lines.append(f"{'(ignored)':<{width}}  {found.ignored / total:7.2%}")
    advice = {"value_outside_classes": classes.advice(np.array(list(found.values)))}
    if found.advice:
        without = sum(problem.kind == "image_without_label" for problem in found.problems)
        advice["image_without_label"] = f"{without:,} images have no label map{found.advice}"
    lines += format_problems(found.problems, show=show, advice=advice)
    lines += [f"\nwarning: {format_doubt(warning)}" for warning in found.warnings]
    summary = summarise_problems(found.problems)
    if found.warnings:
        summary += f", {len(found.warnings)} warning{'s' if len(found.warnings) > 1 else ''}"
    lines.append(f"\n{found.samples:,} pairs of image and label: {summary}")
    return "\n".join(lines)
