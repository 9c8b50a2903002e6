"""The lesion study: every variant of a network on labelled images, in tasks all over the cluster.

A task computes all variants on some images and stores its counts, so an interrupted study goes on where it was.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import cluster, storage
from pipeline.bundle import load_bundle
from pipeline.card import Card, read_card
from pipeline.data.datasets import BadLabelError, SampleError
from pipeline.errors import UserError
from pipeline.predict.batches import micro_batches
from pipeline.predict.device import NotFiniteError, normalise, pick_device, set_threads, upload
from pipeline.progress import Progress
from pipeline.studies.config import LesionConfig
from pipeline.studies.examples import Labelled, Scorer, scorer_of
from pipeline.studies.lesion import Block, Gates, altered, find_blocks, recorded
from pipeline.studies.lesion_report import write_results
from pipeline.studies.lesion_results import PathGradients, Results
from pipeline.studies.variants import Lesion, list_lesions

CHUNK = 64  # images of a task
BATCH_PIXELS = 500_000  # The outputs of all blocks of a batch are kept, 280 MB for a 512x512 image in ResNet-50.
PARTS = "_parts"
PATHS = "paths.json"  # the norms of the lengths that are measured


def study_lesions(config: LesionConfig) -> str:
    """Run the study, or resume the one in the output.

    Returns:
        The study's folder.

    Raises:
        UserError: The user has to change something.
    """
    card = read_card(config.model)
    scorer = scorer_of(card, config.model)
    samples = _thinned(scorer.samples(config), config)
    digest = _digest(config, card, samples)
    folder = storage.join(config.output, f"study_id={config.study_id or f'{config.study}-{digest}'}")
    storage.check_writable(folder)
    probe = _first_readable(scorer, samples)
    network, _ = load_bundle(config.model)
    blocks = find_blocks(network, normalise(upload([probe.pixels], torch.device("cpu")), card.preprocessing))
    if not blocks:
        raise UserError(
            f"{storage.redact(config.model)} ({card.architecture}) has neither residual blocks nor convolutions that "
            "keep their shape, so nothing can be removed from it"
        )
    lesions = list_lesions(blocks, counts=config.counts, swaps=config.swaps, draws=config.draws, seed=config.seed)
    kind = "residual blocks" if blocks[0].residual else "layers"
    print(f"{card.architecture}: {len(blocks)} {kind}, {len(lesions)} variants, {len(samples)} images; {folder}")
    cluster.connect()
    parts = storage.join(folder, PARTS, digest)
    counts, problems, left_out = _count_all(config, scorer, samples, lesions, parts)
    if left_out:
        print(f"{len(left_out)} of {len(samples)} images cannot be used and are left out; the first: {left_out[0]}")
    paths = None
    if blocks[0].residual and config.path_draws:
        readable = [labelled for labelled in _readable(scorer, samples) if labelled.pixels.shape == probe.pixels.shape]
        paths = measure_paths(config, card, scorer, readable, stored=storage.join(parts, PATHS))
    used = len(samples) - len(left_out)
    results = Results(card, scorer, blocks, lesions, used, left_out, counts, problems, paths)
    write_results(folder, config, results)
    return folder


class Chunk(NamedTuple):
    """What a task measured.

    Attributes:
        counts: Counts of each variant over the chunk's images, or why it has none; 0 if no image can be used.
        left_out: Why an image cannot be used, for each such image.
    """

    counts: list[Any]
    left_out: list[str]


def count_chunk(
    config: LesionConfig, card: Card, scorer: Scorer, samples: Sequence[Any], lesions: Sequence[Lesion]
) -> Chunk:
    """Count each variant's answers on some images."""
    evaluator = _evaluator(config.model, config.use_gpu)
    network = evaluator.model
    total: list[Any] = [0] * len(lesions)
    read = [_read(scorer, sample) for sample in samples]
    labelled = [image for image in read if isinstance(image, Labelled)]
    left_out = [problem for problem in read if isinstance(problem, str)]
    blocks: list[Block] = []
    for batch in micro_batches([image.pixels.shape for image in labelled], max_pixels=BATCH_PIXELS):
        images = [labelled[i] for i in batch]
        if not blocks:
            given = normalise(upload([images[0].pixels], evaluator.device), card.preprocessing)
            blocks = find_blocks(network, given)
        try:
            with recorded(blocks) as intact:
                scorer.count(evaluator, images)
        except NotFiniteError as error:
            return Chunk([f"the intact network: {error}"] * len(lesions), left_out)
        for i, lesion in enumerate(lesions):
            if isinstance(total[i], str):
                continue
            try:
                with altered(blocks, lesion.variant, intact):
                    total[i] = total[i] + scorer.count(evaluator, images)
            except NotFiniteError as error:
                total[i] = str(error)
    return Chunk(total, left_out)


@functools.lru_cache(maxsize=1)
def _evaluator(model: str, use_gpu: bool) -> Any:
    network, card = load_bundle(model)
    device = pick_device() if use_gpu else torch.device("cpu")
    set_threads(device, 1)
    return scorer_of(card, model).evaluator(network, device)


def _count_all(
    config: LesionConfig, scorer: Scorer, samples: Sequence[Any], lesions: Sequence[Lesion], parts: str
) -> tuple[list[NDArray[np.int64] | None], list[str | None], list[str]]:
    """Count over all images; `parts` holds what tasks counted.

    Returns:
        The counts of each variant, why a variant has none, and why images are left out.
    """
    card = read_card(config.model)
    starts = range(0, len(samples), CHUNK)
    done = {start: part for start in starts if (part := _stored(parts, start)) is not None}
    missing = [start for start in starts if start not in done]
    calls = [(config, card, scorer, samples[start : start + CHUNK], lesions) for start in missing]
    sizes = [len(call[3]) for call in calls]
    found = cluster.map_tasks(
        count_chunk, calls, sizes=sizes, title="variants", gpus_per_task=1 if config.use_gpu else 0
    )
    for start, chunk in zip(missing, found, strict=True):
        counted = [value if isinstance(value, str) else np.asarray(value).tolist() for value in chunk.counts]
        done[start] = chunk._replace(counts=counted)
        storage.write_bytes(_part(parts, start), json.dumps(done[start]._asdict()).encode())
    left_out = [reason for start in starts for reason in done[start].left_out]
    counts: list[NDArray[np.int64] | None] = []
    problems: list[str | None] = []
    for values in zip(*(chunk.counts for chunk in done.values()), strict=True):
        problem = next((value for value in values if isinstance(value, str)), None)
        used = [np.array(value, np.int64) for value in values if value != 0]
        if problem is None and not used:
            raise UserError(f"no image in {storage.redact(config.images)} can be used")
        problems.append(problem)
        counts.append(None if problem else sum(used[1:], used[0]))
    return counts, problems, left_out


def _part(parts: str, start: int) -> str:
    return storage.join(parts, f"chunk_{start:08d}.json")


def _stored(parts: str, start: int) -> Chunk | None:
    url = _part(parts, start)
    return Chunk(**json.loads(storage.read_bytes(url))) if storage.exists(url) else None


def measure_paths(
    config: LesionConfig, card: Card, scorer: Scorer, images: Iterator[Labelled] | Sequence[Labelled], *, stored: str
) -> PathGradients:
    """Measure the gradient at the images along random paths of each length (section 5).

    Args:
        config: Options of the study.
        card: Card of the bundle.
        scorer: Scorer of the network.
        images: Images of one size, of which the first `path_images` make the batch.
        stored: URL of a JSON file to which the norms are written after each length, and from which they are read.

    Returns:
        The norm of the gradient, for each length from 0 and each draw.
    """
    network, _ = load_bundle(config.model)
    batch = [image for image, _ in zip(images, range(config.path_images), strict=False)]
    pixels = torch.from_numpy(np.stack([image.pixels for image in batch]))
    given = normalise(pixels, card.preprocessing).requires_grad_()
    labels = torch.from_numpy(np.stack([image.labels for image in batch]).astype(np.int64))
    blocks = find_blocks(network, given)
    gates = Gates(blocks)
    n = len(blocks)
    rng = np.random.default_rng(config.seed)
    paths = [
        [frozenset(rng.choice(n, length, replace=False).tolist()) for _ in range(config.path_draws)]
        for length in range(n + 1)
    ]
    norms: list[list[float]] = json.loads(storage.read_bytes(stored)) if storage.exists(stored) else []
    if len(norms) == len(paths):
        return PathGradients(np.array(norms))
    with gates.installed():
        loss = scorer.loss(network.eval()(given), labels, network)
    with Progress(total=len(paths) - len(norms), unit="path lengths", title="paths") as progress:
        for draws in paths[len(norms) :]:
            norms.append([float(gates.gradient(loss, given, path).norm()) for path in draws])
            storage.write_bytes(stored, json.dumps(norms).encode())
            progress.update(1)
    return PathGradients(np.array(norms))


def _thinned(samples: Sequence[Any], config: LesionConfig) -> list[Any]:
    """Return the samples, or some of them, drawn at random and in their order."""
    if len(samples) <= config.limit:
        return list(samples)
    drawn = np.random.default_rng(config.seed).choice(len(samples), config.limit, replace=False)
    return [samples[i] for i in sorted(drawn.tolist())]


def _digest(config: LesionConfig, card: Card, samples: Sequence[Any]) -> str:
    """Return a hash of all that decides the counts, so that those of other options or images are never used."""
    options = config.model_dump(exclude={"output", "study_id", "use_gpu"})
    digest = hashlib.sha256(json.dumps([card.fingerprint, options, samples], sort_keys=True, default=list).encode())
    return digest.hexdigest()[:12]


def _read(scorer: Scorer, sample: Any) -> Labelled | str:
    try:
        return scorer.read(sample)
    except BadLabelError as error:
        raise UserError(f"{error}. Check the data set with segpipe validate") from None
    except SampleError as error:
        return str(error)


def _readable(scorer: Scorer, samples: Iterable[Any]) -> Iterator[Labelled]:
    for sample in samples:
        labelled = _read(scorer, sample)
        if isinstance(labelled, Labelled):
            yield labelled


def _first_readable(scorer: Scorer, samples: Sequence[Any]) -> Labelled:
    found = next(_readable(scorer, samples), None)
    if found is None:
        raise UserError(f"no image can be used; the first problem: {_read(scorer, samples[0])}")
    return found
