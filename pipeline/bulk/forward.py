"""The forward pass over a batch of images, in the predictor or, where that may die of it, in a process of its own."""

import os
import sys
import time
from dataclasses import replace
from typing import Any

from pipeline.bulk.fetch import Failure, Fetched
from pipeline.bulk.image_worker import Predicted
from pipeline.bulk.kind import ImagePredictor, RunKind
from pipeline.errors import IncompleteError, one_line

# Without an answer, the process that computes a batch ends: far longer than a CPU takes, and compiling a network.
SECONDS, SECONDS_PER_MEGAPIXEL = 900.0, 120.0
LOST = 125  # exit code of a process whose device has failed for good


def forward(predictor: ImagePredictor, images: list[Fetched]) -> list[Predicted]:
    """Compute a batch; if that fails, find out which of its images spoils it.

    If the device has failed for good, this process ends: else all further images would fail. Its shards are computed
    again, guarded.

    Args:
        predictor: The model.
        images: Images of one shape, with their `prepared` input.
    """
    try:
        return _forward(predictor, images)
    except Exception as error:  # whatever it is, it belongs to an image
        failure = Failure.of("predict", error)
    if predictor.is_lost():
        print(f"the device has failed ({failure.message}): this process ends", file=sys.stderr, flush=True)
        os._exit(LOST)
    if len(images) == 1:
        return [Predicted(replace(images[0], prepared=None, failure=failure), None, None)]
    predictor.free_memory()  # here, because the exception holds on to the tensors of the batch
    return [one for image in images for one in forward(predictor, [image])]


def _forward(predictor: ImagePredictor, images: list[Fetched]) -> list[Predicted]:
    prepared = [image.prepared for image in images if image.prepared is not None]
    start = time.perf_counter()
    results = predictor(prepared, [image.truth for image in images])
    each = 1000 * (time.perf_counter() - start) / len(images)
    return [Predicted(replace(image, prepared=None), r, each) for image, r in zip(images, results, strict=True)]


def pixels_of(images: list[Fetched]) -> int:
    """Return the number of pixels that the network gets."""
    return sum(image.prepared.shape[0] * image.prepared.shape[1] for image in images if image.prepared is not None)


def seconds_for(images: list[Fetched], per_image: float) -> float:
    """Return the time after which a batch is taken not to end; for `per_image` see `RunKind.seconds_per_image`."""
    return SECONDS + SECONDS_PER_MEGAPIXEL * pixels_of(images) / 1e6 + per_image * len(images)


def load(kind: RunKind, images: int, *, use_gpu: bool) -> ImagePredictor:
    """Load the model of a run.

    Args:
        kind: Kind of the run.
        images: Number of images of the run.
        use_gpu: Whether Ray has assigned a GPU.

    Raises:
        IncompleteError: The GPU cannot be used; a CPU would take its place without a word, and hours.
    """
    predictor = kind.load_predictor(images)
    if use_gpu and predictor.device_name == "cpu":
        raise IncompleteError("CUDA finds no usable GPU where Ray has assigned one; see nvidia-smi on that node")
    return predictor


class ForwardWorker:
    """What a process with the model of its own does; see `HelperPool`.

    Args:
        kind: Kind of the run.
        images: Number of images of the run.
        batch_pixels: Largest number of pixels in a batch.
        use_gpu: Whether Ray has assigned a GPU.
    """

    def __init__(self, kind: RunKind, *, images: int, batch_pixels: int, use_gpu: bool):
        self._kind = kind
        self._images = images
        self._batch_pixels = batch_pixels
        self._use_gpu = use_gpu
        self._predictor: Any = None

    def forward(self, images: list[Fetched]) -> list[Predicted]:
        """Compute a batch.

        Raises:
            IncompleteError: The model cannot be loaded.
        """
        if self._predictor is None:
            try:
                self._predictor = load(self._kind, self._images, use_gpu=self._use_gpu)
            except Exception as error:
                raise IncompleteError(f"the model cannot be loaded beside the predictor: {one_line(error)}") from None
            self._predictor.batch_pixels = self._batch_pixels
        predicted = forward(self._predictor, images)
        self._predictor.free_memory()  # which the predictors use beside this process
        return predicted
