"""Milliseconds that each stage of a bulk segmentation takes for an image on one thread, for `benchmarks.bulk`."""

import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import allocator
from pipeline.bundle import load_bundle
from pipeline.card import Card
from pipeline.crf import crf_of_scores
from pipeline.data.images import decode_image, encode_mask
from pipeline.data.preprocessing import DType
from pipeline.models.upsampling import upsample
from pipeline.predict.batches import micro_batches
from pipeline.predict.cpu_network import suit_cpu
from pipeline.predict.device import autocast, normalise, pick_device, place

SAMPLE = 64  # images whose stages are timed, again and again
ONE_IMAGE = "network, one image"  # measured for comparison; a run computes batches


class Work(NamedTuple):
    """What is computed.

    Attributes:
        bundle: Bundle of the network.
        images: Folder of images.
        dtype: "float32", or "bfloat16" for autocast.
        crf: Whether our dense CRF refines the masks.
        batch_pixels: Largest number of pixels in a batch.
    """

    bundle: str
    images: Path
    dtype: DType
    crf: bool
    batch_pixels: int


class Stopwatch:
    """Sums the time of stages.

    Args:
        device: The device that may still compute when a stage returns.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._seconds: dict[str, float] = defaultdict(float)
        self._images: dict[str, int] = defaultdict(int)

    @contextmanager
    def stage(self, name: str, images: int) -> Iterator[None]:
        """Time a stage of some images."""
        start = time.perf_counter()
        yield
        wait_for(self._device)
        self._seconds[name] += time.perf_counter() - start
        self._images[name] += images

    def milliseconds(self) -> dict[str, float]:
        """Return the milliseconds for an image, by stage."""
        return {name: 1000 * seconds / self._images[name] for name, seconds in self._seconds.items()}


def stage_costs(work: Work, *, processes: int, seconds: float) -> dict[str, float]:
    """Measure the stages in processes of one thread that compute at the same time, set up as predictors are.

    Args:
        work: What is computed.
        processes: Number of processes.
        seconds: Time to measure.

    Returns:
        The milliseconds for an image by stage, the mean over the processes.
    """
    context = multiprocessing.get_context("spawn")
    settings = allocator.keep_freed(allocator.BATCH_BYTES) if pick_device().type == "cpu" else {}
    with (
        patch.dict(os.environ, settings),
        context.Manager() as manager,
        ProcessPoolExecutor(processes, mp_context=context) as pool,
    ):
        start = manager.Barrier(processes, timeout=600)
        calls = [pool.submit(_stage_costs, work, seconds, start) for _ in range(processes)]
        costs = [call.result() for call in calls]
    return {stage: sum(one[stage] for one in costs) / processes for stage in costs[0]}


def needed(costs: dict[str, float], *, crf: bool) -> float:
    """Return the milliseconds of one thread that an image needs at least, in a run with or without the CRF."""
    return sum(cost for stage, cost in costs.items() if stage != ONE_IMAGE and (crf or stage != "CRF"))


@torch.inference_mode()
def _stage_costs(work: Work, seconds: float, start: Any) -> dict[str, float]:
    torch.set_num_threads(1)
    device = pick_device()
    model, card = load_bundle(work.bundle)
    suit_cpu(model, device)
    network = place(model, device)
    files = sorted(work.images.iterdir())
    files = files[:: -(-len(files) // SAMPLE)]
    shapes = [decode_image(file.read_bytes()).pixels.shape for file in files]
    batches = [[files[i] for i in batch] for batch in micro_batches(shapes, max_pixels=work.batch_pixels)]
    _segment(batches[0], work, network, card, Stopwatch(device))  # warms up
    watch = Stopwatch(device)
    start.wait()
    end = time.monotonic() + seconds
    done = 0
    while time.monotonic() < end:
        _segment(batches[done % len(batches)], work, network, card, watch)
        done += 1
    return watch.milliseconds()


def _segment(files: list[Path], work: Work, network: Any, card: Card, watch: Stopwatch) -> None:
    """Segment images of one size, stage by stage."""
    count = len(files)
    stride: int = network.output_stride
    with watch.stage("read", count):
        data = [file.read_bytes() for file in files]
    with watch.stage("decode", count):
        images = [decode_image(one).pixels for one in data]
    height, width, _ = images[0].shape
    for name, some in ((ONE_IMAGE, images[:1]), ("network, a batch", images)):
        with watch.stage(name, len(some)):
            scores = _scores(some, work, network, card)
    with watch.stage("upsample and argmax", count):
        masks = upsample(scores, (height, width), stride=stride).argmax(dim=1).to(torch.uint8).cpu().numpy()
    if work.crf:
        coarse = scores.half().cpu().numpy()
        with watch.stage("CRF", count):
            refined = [crf_of_scores(*pair, stride=stride).labels for pair in zip(images, coarse, strict=True)]
        masks = np.stack(refined)
    with watch.stage("encode", count):
        for mask in masks:
            encode_mask(mask, card.classes.palette)


def _scores(images: list[NDArray[np.uint8]], work: Work, network: Any, card: Card) -> Tensor:
    device = pick_device()
    with autocast(device, work.dtype):
        batch = torch.from_numpy(np.stack(images)).to(device)
        return network(normalise(batch, card.preprocessing)).logits


def wait_for(device: torch.device) -> None:
    """Wait until a device has computed everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
