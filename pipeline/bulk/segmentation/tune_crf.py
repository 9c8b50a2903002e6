"""Searching a dense CRF's parameters on labelled images, coarse to fine, in parallel on Ray.

DeepLab v1 (section 5.1) searches w1, sigma_alpha and sigma_beta with w2 and sigma_gamma at 3, on 100 validation images.
The network runs once over the images; every trial starts from its score maps.
"""

import io
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from pipeline import cluster, storage
from pipeline.crf.params import CRFParams, Mode
from pipeline.crf.score_map import crf_of_scores
from pipeline.crf.warm import warm
from pipeline.data import datasets
from pipeline.data.classes import Classes, classes_like
from pipeline.data.datasets import Sample, SampleError, read_sample
from pipeline.data.preprocessing import DType
from pipeline.errors import UserError
from pipeline.metrics.segmentation import Confusion, confusion
from pipeline.storage import Url

CHUNK = 4  # images in a task

SCHEMA = pa.schema(
    [
        ("trial", pa.int32()),
        ("round", pa.string()),  # none | default | coarse | fine
        ("w1", pa.float64()),  # null where there is no CRF
        ("sigma_alpha", pa.float64()),
        ("sigma_beta", pa.float64()),
        ("w2", pa.float64()),
        ("sigma_gamma", pa.float64()),
        ("steps", pa.int32()),
        ("miou", pa.float64()),
        ("gain", pa.float64()),  # over no CRF
        ("pixel_accuracy", pa.float64()),
        ("iou", pa.list_(pa.float64())),  # of each class
        ("images", pa.int32()),
    ]
)


class TuneConfig(BaseModel):
    """The options of `jobs/tune_crf.py`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Url = Field(description="bundle: the output folder of jobs/train.py")
    images: Url = Field(description="folder of validation images")
    labels: Url = Field(description="folder of their label maps, paired by name")
    classes: Url | None = Field(default=None, description="class file of the labels, if not the one of the model")
    output: Url = Field(description="folder for the table of trials, trials.parquet")
    max_images: int = Field(default=100, ge=1, description="images to search on, evenly spaced over the folder")
    w1: tuple[float, ...] = Field(default=(3, 5, 10), min_length=1, description="values of the coarse search")
    sigma_alpha: tuple[float, ...] = Field(default=(30, 60, 90), min_length=1, description="the same, in pixels")
    sigma_beta: tuple[float, ...] = Field(default=(3, 6, 10), min_length=1, description="the same, in grey levels")
    fine_rounds: int = Field(default=1, ge=0, description="rounds of finer search around the best")
    crf_mode: Mode = Field(default="pruned", description="of the CRF; see jobs/segment.py")
    crf_params: CRFParams = Field(default=CRFParams(), description="the default to beat, and what is not searched")
    dtype: DType = Field(default="float32", description="float32; bfloat16 or float16 for autocast")


class Trial(NamedTuple):
    """A setting and its counts; without parameters, no CRF."""

    round: str
    params: CRFParams | None
    counts: Confusion

    @property
    def miou(self) -> float:
        return self.counts.scores.miou


class Scored(NamedTuple):
    """An image with the network's scores and its labels, all upright."""

    pixels: NDArray[np.uint8]
    scores: NDArray[np.float16]
    stride: int
    truth: NDArray[np.int32]
    raw: NDArray


def tune(config: TuneConfig) -> list[Trial]:
    """Search, and write the table of trials.

    Returns:
        The trials; the first is no CRF, the second the default.

    Raises:
        UserError: no usable image, or what else the user has to mend.
    """
    from pipeline import bundle  # torch: only here and in the scorer, not in the trials' tasks

    classes = classes_like(config.classes, bundle.read_card(config.model).classes, of="model")
    try:
        config.crf_params.label_compatibility(len(classes))
    except ValueError as error:
        raise UserError(f"--crf-params.{error}") from None
    samples = datasets.pair(config.images, config.labels).samples
    if len(samples) > config.max_images:
        samples = [samples[int(i)] for i in np.linspace(0, len(samples) - 1, config.max_images)]
    storage.check_writable(config.output)
    cluster.connect()
    chunks, images = _score(config, samples, classes)
    default = config.crf_params
    grid = itertools.product(config.w1, config.sigma_alpha, config.sigma_beta)
    coarse: list[CRFParams | None] = [_with(default, *at) for at in grid]
    trials = _try(config, chunks, classes, {"none": [None], "default": [default], "coarse": coarse})
    for i in range(config.fine_rounds):
        trials += _try(config, chunks, classes, {"fine": list(_around(_best(trials), factor=1.5 ** (0.5**i)))})
    table = pa.Table.from_pylist(list(_rows(trials, images)), schema=SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    storage.write_bytes(storage.join(config.output, "trials.parquet"), buffer.getvalue())
    return trials


def _with(params: CRFParams, w1: float, sigma_alpha: float, sigma_beta: float) -> CRFParams:
    return params.model_copy(update={"w1": w1, "sigma_alpha": sigma_alpha, "sigma_beta": sigma_beta})


def _best(trials: Sequence[Trial]) -> CRFParams:
    """The best parameters, also where no CRF is better."""
    best = max((trial for trial in trials if trial.params is not None), key=lambda trial: trial.miou)
    assert best.params is not None
    return best.params


def _around(params: CRFParams, *, factor: float) -> Iterator[CRFParams]:
    """The settings a factor away in each of the three parameters."""
    for powers in itertools.product((-1, 0, 1), repeat=3):
        if any(powers):
            values = (params.w1, params.sigma_alpha, params.sigma_beta)
            yield _with(params, *(round(v * factor**p, 3) for v, p in zip(values, powers, strict=True)))


def _score(config: TuneConfig, samples: list[Sample], classes: Classes) -> tuple[list[Any], int]:
    """References to chunks of scored images, and how many images they hold.

    Raises:
        UserError: not one of the samples can be read.
    """
    use_gpu = cluster.available().gpus > 0
    scorer = ray.remote(num_cpus=1, num_gpus=1 if use_gpu else 0)(Scorer).remote(config, classes)
    starts = range(0, len(samples), CHUNK)
    answers = [scorer.score.options(num_returns=2).remote(samples[start : start + CHUNK]) for start in starts]
    unread = [line for _, lines in _progress(answers, "scoring") for line in ray.get(lines)]
    for line in unread:
        print(f"left out: {line}", file=sys.stderr)
    if len(unread) == len(samples):
        raise UserError(f"none of the {len(samples)} images of {storage.redact(config.images)} can be used")
    return [chunk for chunk, _ in answers], len(samples) - len(unread)


class Scorer:
    """An actor that runs the network."""

    def __init__(self, config: TuneConfig, classes: Classes):
        from pipeline import bundle
        from pipeline.predict.segmenter import Segmenter, pick_device

        model, card = bundle.load_bundle(config.model)
        self._segmenter = Segmenter(
            model, preprocessing=card.preprocessing, device=pick_device(), dtype=config.dtype, keep_scores=True
        )
        self._classes = classes

    def score(self, samples: list[Sample]) -> tuple[list[Scored], list[str]]:
        """Score some samples; and a line for each that cannot be used."""
        scored, unread = [], []
        for sample in samples:
            try:
                pixels, truth = read_sample(sample, self._classes)
                (prediction,) = self._segmenter([pixels])
            except (SampleError, ValueError) as error:
                unread.append(f"{sample.key}: {error}")
                continue
            assert prediction.scores is not None
            scored.append(Scored(pixels, prediction.scores, prediction.stride, truth, prediction.labels))
        return scored, unread


def _try(
    config: TuneConfig, chunks: list[Any], classes: Classes, rounds: dict[str, list[CRFParams | None]]
) -> list[Trial]:
    """Count every setting on every chunk."""
    count = ray.remote(num_cpus=1)(_count)
    settings = [(name, params) for name, several in rounds.items() for params in several]
    waiting = [[count.remote(chunk, params, config.crf_mode, classes) for chunk in chunks] for _, params in settings]
    zero = Confusion.zeros(len(classes))
    return [
        Trial(name, params, sum(ray.get(counts), zero))
        for (name, params), counts in zip(settings, _progress(waiting, "trials"), strict=True)
    ]


def _progress(items: list[Any], what: str) -> Any:
    return tqdm(items, desc=what, leave=False, disable=not sys.stderr.isatty())


def _count(chunk: list[Scored], params: CRFParams | None, mode: Mode, classes: Classes) -> Confusion:
    """The confusion of a chunk's masks, refined if there are parameters."""
    total = Confusion.zeros(len(classes))
    if params is not None:
        warm(classes=len(classes), params=params, mode=mode)
    for image in chunk:
        labels: NDArray = image.raw
        if params is not None:
            labels = crf_of_scores(image.pixels, image.scores, stride=image.stride, params=params, mode=mode).labels
        total += confusion(image.truth, labels, num_classes=len(classes), ignore_index=classes.ignore_index)
    return total


def _rows(trials: list[Trial], images: int) -> Iterator[dict[str, Any]]:
    for i, trial in enumerate(trials):
        scores = trial.counts.scores
        searched = {} if trial.params is None else trial.params.model_dump(include=set(SCHEMA.names))
        yield searched | {
            "trial": i,
            "round": trial.round,
            "miou": scores.miou,
            "gain": trial.miou - trials[0].miou,
            "pixel_accuracy": scores.pixel_accuracy,
            "iou": [None if np.isnan(iou) else float(iou) for iou in scores.iou],
            "images": images,
        }


def describe(trials: list[Trial], classes: Classes) -> str:
    """No CRF, the default and the best beside each other, and what to do."""
    best = max(trials, key=lambda trial: trial.miou)
    shown = {"no CRF": trials[0], "default": trials[1], "best": best}
    width = max(len("pixel accuracy"), *(len(name) for name in classes.names))
    lines = [" " * width + "".join(f"{name:>12}" for name in shown)]
    for name in ("w1", "sigma_alpha", "sigma_beta"):
        values = ["–" if t.params is None else f"{getattr(t.params, name):g}" for t in shown.values()]
        lines.append(f"{name:<{width}}" + "".join(f"{value:>12}" for value in values))
    scores = [trial.counts.scores for trial in shown.values()]
    for k, name in enumerate(classes.names):
        lines.append(f"{name:<{width}}" + "".join(f"{s.iou[k]:12.4f}" for s in scores))
    for name, attribute in (("mIoU", "miou"), ("pixel accuracy", "pixel_accuracy")):
        lines.append(f"{name:<{width}}" + "".join(f"{getattr(s, attribute):12.4f}" for s in scores))
    lines.append(f"{len(trials) - 1} settings tried")
    if best.params is None:
        return "\n".join([*lines, "No CRF is best on these images: leave --crf out."])
    flags = " ".join(
        f"--crf-params.{name.replace('_', '-')} {getattr(best.params, name):g}"
        for name in ("w1", "sigma_alpha", "sigma_beta")
    )
    return "\n".join([*lines, f"The best: jobs/segment.py --crf {flags} …"])
