"""Searching a dense CRF's parameters on labelled images, in parallel on Ray; `crf_search` decides what is tried.

DeepLab v1 (section 5.1) uses 100 validation images. The network runs once over the images; every trial starts from its
score maps.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import parquet, storage
from pipeline.bulk.segmentation.config import TuneConfig
from pipeline.bulk.segmentation.crf_search import Trial, search
from pipeline.bulk.segmentation.run import check_crf_params
from pipeline.card import read_card
from pipeline.cpu import warn_of_emulation
from pipeline.crf.params import CRFParams, Mode
from pipeline.data import datasets
from pipeline.data.classes import Classes, classes_like
from pipeline.data.datasets import Sample, SampleError, read_sample
from pipeline.errors import UserError
from pipeline.metrics.segmentation import Confusion, confusion
from pipeline.progress import Progress

if TYPE_CHECKING:
    from pipeline.crf.score_map import RefinedLabels

CHUNK = 4  # images in a task

SCHEMA = pa.schema(
    [
        ("trial", pa.int32()),
        ("round", pa.string()),  # none | default | coarse | fine | class | combined
        ("w1", pa.float64()),  # null where there is no CRF
        ("sigma_alpha", pa.float64()),
        ("sigma_beta", pa.float64()),
        ("w2", pa.float64()),
        ("sigma_gamma", pa.float64()),
        ("steps", pa.int32()),
        ("compatibility", pa.list_(pa.float64())),  # factor of each class; null for a factor of 1 for all
        ("miou", pa.float64()),
        ("gain", pa.float64()),  # over no CRF
        ("pixel_accuracy", pa.float64()),
        ("iou", pa.list_(pa.float64())),  # by class
        ("images", pa.int32()),
    ]
)


class ScoredImage(NamedTuple):
    """An image with the network's scores and its labels, all upright.

    Attributes:
        pixels: uint8 [height, width, 3].
        scores: float16 score map [classes, h, w].
        stride: Output stride of the score map.
        truth: int32 [height, width], class indices and ignore index.
        raw: Labels of the network [height, width].
    """

    pixels: NDArray[np.uint8]
    scores: NDArray[np.float16]
    stride: int
    truth: NDArray[np.int32]
    raw: NDArray


def tune(config: TuneConfig) -> list[Trial]:
    """Search, and write the table of trials.

    Returns:
        The trials. The first is without a CRF, the second has the default parameters.

    Raises:
        UserError: No image can be used, or an option does not fit.
    """
    classes = classes_like(config.classes, read_card(config.model).classes, owner="model")
    check_crf_params(config, classes)
    found = datasets.pair(config.images, config.labels, names=config)
    samples = found.samples
    if not samples:
        raise UserError(f"no label map in {storage.redact(config.labels)} has the name of an image{found.advice}")
    if len(samples) > config.max_images:
        samples = [samples[int(i)] for i in np.linspace(0, len(samples) - 1, config.max_images)]
    storage.check_writable(config.output)
    from pipeline import cluster

    cluster.connect()
    on_gpu = _is_on_gpu(config)
    scorer = _start_scorer(config, classes)
    chunks, images = _score(config, scorer, samples)
    counter = scorer if on_gpu else None
    trials = search(config, partial(_try, config, counter, chunks, classes))
    parquet.write_rows(storage.join(config.output, "trials.parquet"), list(_rows(trials, images)), SCHEMA)
    return trials


def _is_on_gpu(config: TuneConfig) -> bool:
    """Tell whether the CRF runs on a GPU.

    Raises:
        UserError: It has to, and there is none.
    """
    from pipeline import cluster

    has_gpu = cluster.use_gpus(None)
    if config.crf_device == "gpu" and not has_gpu:
        raise UserError("--crf-device gpu needs a GPU, and the cluster has none; leave the option out")
    return has_gpu and config.crf_device != "cpu"


def _start_scorer(config: TuneConfig, classes: Classes) -> Any:
    """Start a `Scorer`, on a GPU if there is one."""
    import ray

    from pipeline import cluster

    has_gpu = cluster.use_gpus(None)
    if not has_gpu:
        warn_of_emulation(config.dtype)
    return ray.remote(num_cpus=1, num_gpus=1 if has_gpu else 0)(Scorer).remote(config, classes)


def _score(config: TuneConfig, scorer: Any, samples: list[Sample]) -> tuple[list[Any], int]:
    """Run the network over the samples.

    Returns:
        References to chunks of scored images, and the number of images in them.

    Raises:
        UserError: None of the samples can be read.
    """
    import ray

    starts = range(0, len(samples), CHUNK)
    answers = [scorer.score.options(num_returns=2).remote(samples[start : start + CHUNK]) for start in starts]
    unread = list[str]()
    with Progress(total=len(samples), title="scoring", waiting_for="the model to be loaded") as progress:
        for start, (_, lines) in zip(starts, answers, strict=True):
            unread += ray.get(lines)
            progress.update(min(CHUNK, len(samples) - start))
    for line in unread:
        print(f"left out: {line}", file=sys.stderr)
    if len(unread) == len(samples):
        raise UserError(f"none of the {len(samples)} images of {storage.redact(config.images)} can be used")
    return [chunk for chunk, _ in answers], len(samples) - len(unread)


class Scorer:
    """An actor that runs the network and, on a GPU, the CRF.

    Args:
        config: Options of the search.
        classes: Classes of the model, with the label values of the ground truth.
    """

    def __init__(self, config: TuneConfig, classes: Classes):
        from pipeline.bundle import load_bundle
        from pipeline.predict.cpu_network import suit_cpu
        from pipeline.predict.device import pick_device
        from pipeline.predict.segmenter import Segmenter

        model, card = load_bundle(config.model)
        self._device = pick_device()
        suit_cpu(model, self._device)
        self._segmenter = Segmenter(
            model, preprocessing=card.preprocessing, device=self._device, dtype=config.dtype, keep_scores=True
        )
        self._classes = classes

    def score(self, samples: list[Sample]) -> tuple[list[ScoredImage], list[str]]:
        """Score some samples; also return a line for each sample that cannot be used."""
        scored, unread = [], []
        for sample in samples:
            try:
                pixels, truth = read_sample(sample, self._classes)
                (prediction,) = self._segmenter([pixels])
            except (SampleError, ValueError) as error:
                unread.append(f"{sample.key}: {error}")
                continue
            assert prediction.scores is not None
            scored.append(ScoredImage(pixels, prediction.scores, prediction.stride, truth, prediction.labels))
        return scored, unread

    def count(self, chunk: list[ScoredImage], params: CRFParams | None, mode: Mode, classes: Classes) -> Confusion:
        """Count the confusion of a chunk's masks as `count_chunk` does, with the CRF on the device."""
        from pipeline.crf.gpu import crf_of_scores

        return _count(chunk, params, mode, classes, partial(crf_of_scores, device=self._device))


def _try(
    config: TuneConfig,
    counter: Any,
    chunks: list[Any],
    classes: Classes,
    rounds: Mapping[str, Sequence[CRFParams | None]],
) -> list[Trial]:
    """Count every setting on every chunk, in CPU tasks or, if there is one, in a `Scorer` on a GPU."""
    import ray

    from pipeline import cluster

    settings = [(name, params) for name, several in rounds.items() for params in several]
    calls = [(chunk, params, config.crf_mode, classes) for _, params in settings for chunk in chunks]
    if counter is None:
        counted = cluster.map_tasks(count_chunk, calls, unit="chunks", title="trials")
    else:
        counted = map(ray.get, [counter.count.remote(*call) for call in calls])
    zero = Confusion.zeros(len(classes))
    return [Trial(name, params, sum(itertools.islice(counted, len(chunks)), zero)) for name, params in settings]


def count_chunk(chunk: list[ScoredImage], params: CRFParams | None, mode: Mode, classes: Classes) -> Confusion:
    """Count the confusion of a chunk's masks, refined by a CRF if there are parameters."""
    from pipeline.crf.score_map import crf_of_scores
    from pipeline.crf.warm import warm

    if params is not None:
        warm(classes=len(classes), params=params, mode=mode)
    return _count(chunk, params, mode, classes, crf_of_scores)


def _count(
    chunk: list[ScoredImage],
    params: CRFParams | None,
    mode: Mode,
    classes: Classes,
    crf_of_scores: Callable[..., "RefinedLabels"],
) -> Confusion:
    total = Confusion.zeros(len(classes))
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
            "compatibility": trial.params and _factors(trial.params),
            "trial": i,
            "round": trial.round,
            "miou": scores.miou,
            "gain": trial.miou - trials[0].miou,
            "pixel_accuracy": scores.pixel_accuracy,
            "iou": [None if np.isnan(iou) else float(iou) for iou in scores.iou],
            "images": images,
        }


def _factors(params: CRFParams) -> list[float] | None:
    """Return the factors of the classes, or None if there are none (Potts, or a matrix of the user)."""
    given = params.compatibility or ()
    return [factor for factor in given if not isinstance(factor, tuple)] or None


def format_trials(trials: list[Trial], classes: Classes) -> str:
    """Format no CRF, the default and the best setting side by side, and the flags of the best."""
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
    if factors := _factors(best.params):
        flags += f" --crf-params.compatibility {','.join(f'{factor:g}' for factor in factors)}"
    return "\n".join([*lines, f"The best: segpipe segment --crf {flags} …"])
