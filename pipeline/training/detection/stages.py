"""The stages of R-CNN and SPPNet after fine-tuning: features, SVMs, box regressors, and the final bundle.

Each stage leaves a file, so that an interrupted run goes on with the stage that it was in:

    OUTPUT/stages/features/…        features of the training images, in parts
    OUTPUT/stages/svms.npz          weights, biases, scale
    OUTPUT/stages/regressors.npz    weights, biases
    OUTPUT/stages/scores.json       scores of the validation images after each stage

The bundle holds the fine-tuned network until the last stage is done; its card then has the scores of all stages.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.util import ActorPool

from pipeline import bundle, cluster, storage
from pipeline.card import CARD, read_card
from pipeline.data.classes import Classes
from pipeline.models.detection.staged import StagedNetwork
from pipeline.models.detection.stages import NORM, HardNegatives, Linear, fit_regressors
from pipeline.progress import Progress, waiting
from pipeline.training.detection.config import StageOptions, TrainDetectorConfig
from pipeline.training.detection.features import (
    FOLDER,
    NORMS,
    Part,
    apply_stages,
    is_stored,
    parts_of,
    read_arrays,
    read_features,
    read_metadata,
    start_workers,
    validate_stage,
    write_arrays,
)
from pipeline.training.detection.validation import MEASURES
from pipeline.training.records import write_validation

SCORES = "scores.json"
SOFTMAX, SVMS, REGRESSORS = "softmax", "SVMs", "SVMs and box regressors"


def are_complete(output: str) -> bool:
    """Return whether the bundle in the output holds the results of all stages."""
    return storage.exists(storage.join(output, CARD)) and "stages" in read_card(output).training


def fit(
    config: TrainDetectorConfig, classes: Classes, *, train: pa.Table, val: pa.Table, record: dict[str, Any]
) -> None:
    """Do the stages that are not done, and write the final bundle.

    Args:
        config: Configuration of the run.
        classes: Classes of the data set.
        train: Survey of the training images.
        val: Survey of the validation images.
        record: Record of the epoch whose weights are in the bundle.
    """
    output = config.output
    if are_complete(output):
        return
    weights = read_card(output).weights_sha256
    parts = parts_of(output, train, weights=weights)
    workers = start_workers(config, train, val)
    _make_features(workers, parts)
    source = f"{[part.digest for part in parts]} {config.stages.model_dump_json()}"
    svms = _stored("svms", output, source, lambda: _fit_svms(parts, config.stages, len(classes)))
    regressors = _stored("regressors", output, source, lambda: _fit_regressors(parts, config.stages, len(classes)))

    scores = {SOFTMAX: {key: record[key] for key in (*MEASURES.titles, MEASURES.by_class)}}
    for stage, fitted in ((SVMS, None), (REGRESSORS, regressors)):
        with waiting(f"the validation after the stage: {stage}"):
            validated = validate_stage(workers, svms, fitted, val.num_rows)
        scores[stage] = validated.record(classes)
        print(f"{stage}: {MEASURES.title} {scores[stage][MEASURES.headline]:.4f}")
    for worker in workers:
        ray.kill(worker)
    storage.write_bytes(storage.join(output, FOLDER, SCORES), json.dumps(scores, indent=2).encode())
    write_validation(output, validated.rows)
    network, card = bundle.load_bundle(output)
    assert isinstance(network, StagedNetwork)
    apply_stages(network, svms, regressors)
    bundle.save_bundle(output, network, card.model_copy(update={"training": card.training | {"stages": scores}}))


def rows(output: str) -> list[dict[str, Any]]:
    """Return a table with the scores after each stage: a row for each score and class, a column for each stage."""
    scores = json.loads(storage.read_text(storage.join(output, FOLDER, SCORES), noun="scores of the stages"))
    lines = [
        {"": title} | {name: stage[key] for name, stage in scores.items()} for key, title in MEASURES.titles.items()
    ]
    names = next(iter(scores.values()))[MEASURES.by_class]
    by_class = [
        {"": f"{MEASURES.class_title}, {label}"} | {name: s[MEASURES.by_class][label] for name, s in scores.items()}
        for label in names
    ]
    return lines + by_class


def _make_features(workers: list[Any], parts: list[Part]) -> None:
    """Compute and store the parts that are missing."""
    missing = [part for part in parts if not is_stored(part)]
    pool = ActorPool(workers)
    made = pool.map_unordered(lambda worker, part: worker.make_part.remote(part), missing)
    with Progress(total=len(missing), unit="parts", title="features") as progress:
        for unread in made:
            for line in unread:
                progress.write(f"skipped: {line}")
            progress.update(1)


def _stored(name: str, output: str, source: str, make: Callable[[], dict[str, NDArray]]) -> dict[str, NDArray]:
    """Return arrays that are stored and were made from the same source, or make and store them."""
    url = storage.join(output, FOLDER, f"{name}.npz")
    if storage.exists(url):
        arrays = read_arrays(url)
        if str(arrays.pop("source")) == source:
            return arrays
    arrays = make()
    write_arrays(url, arrays | {"source": np.array(source)})
    return arrays


def _fit_svms(parts: list[Part], options: StageOptions, num_classes: int) -> dict[str, NDArray]:
    """Fit the SVMs of all classes, in tasks of some classes each."""
    norms = np.array([json.loads(read_metadata(part)[NORMS]) for part in parts]).sum(axis=0)
    scale = NORM * norms[1] / norms[0] if norms[0] > 0 else 1.0
    calls = [(parts, labels, scale, options.svm_cost) for labels in _shares(num_classes)]
    done = cluster.map_tasks(_fit_some_svms, calls, sizes=[len(call[1]) for call in calls], unit="SVMs", title="SVMs")
    return _in_order(calls, done) | {"scale": np.array(scale)}


def _fit_some_svms(parts: list[Part], labels: list[int], scale: float, cost: float) -> list[Linear]:
    """Fit the SVMs of some classes in one pass over the features."""
    truth = [read_features(part, "truth", "label", "hidden") for part in parts]
    classes, positives = (np.concatenate(columns) for columns in zip(*truth, strict=True))
    fits = [HardNegatives(np.float32(scale) * positives[classes == label], cost=cost) for label in labels]
    for part in parts:
        negative, hidden = read_features(part, "regions", "negative", "hidden")
        for label, svm in zip(labels, fits, strict=True):
            svm.add(np.float32(scale) * hidden[negative[:, label]])
    return [svm.result() for svm in fits]


def _fit_regressors(parts: list[Part], options: StageOptions, num_classes: int) -> dict[str, NDArray]:
    """Fit the box regressors of all classes, in tasks of some classes each."""
    calls = [(parts, labels, num_classes, options.ridge) for labels in _shares(num_classes)]
    sizes = [len(call[1]) for call in calls]
    return _in_order(calls, cluster.map_tasks(_fit_some_regressors, calls, sizes=sizes, unit="classes", title="boxes"))


def _fit_some_regressors(parts: list[Part], labels: list[int], num_classes: int, ridge: float) -> list[Linear]:
    columns = []
    for part in parts:
        found = read_features(part, "pairs", "label", "target", "pooled")
        mine = np.isin(found[0], labels)
        columns.append([column[mine] for column in found])
    classes, targets, pooled = (np.concatenate(some) for some in zip(*columns, strict=True))
    fitted = fit_regressors(pooled, targets, classes, num_classes=num_classes, penalty=ridge)
    return [fitted[label] for label in labels]


def _shares(num_classes: int) -> list[list[int]]:
    """Divide the classes among the CPUs of the cluster: a task reads all features, whatever its number of classes."""
    tasks = min(num_classes, max(1, cluster.available().cpus))
    return [list(range(i, num_classes, tasks)) for i in range(tasks)]


def _in_order(calls: list[Any], results: Any) -> dict[str, NDArray]:
    """Return the functions of all classes as arrays, in the order of the classes."""
    fitted = {
        label: f for call, done in zip(calls, results, strict=True) for label, f in zip(call[1], done, strict=True)
    }
    ordered = [fitted[label] for label in sorted(fitted)]
    return {name: np.stack([getattr(f, name) for f in ordered]).astype(np.float32) for name in Linear._fields}
