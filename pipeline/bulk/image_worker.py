"""What the helper processes of predictors and of CPU tasks do: fetch images, and compute the columns of their rows."""

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pipeline import retry
from pipeline.bulk.fetch import Failure, Fetched, Fetching, StageError, Wanted, fetch_images
from pipeline.bulk.helpers import HelperPool
from pipeline.bulk.kind import RunKind
from pipeline.bulk.planned_image import Source

THREADS = 4  # calls that a helper process runs at a time, so that it fetches and encodes while it decodes


class Predicted(NamedTuple):
    """An image after the forward pass.

    Attributes:
        fetched: The image, without the network's input.
        result: What the predictor returned for it; None if the image has a failure.
        infer_ms: Milliseconds of the forward pass; None if the image has a failure.
    """

    fetched: Fetched
    result: Any
    infer_ms: float | None


class ImageWorker:
    """The methods that helper processes call, each with a list of items.

    Args:
        kind: Kind of the run.
        planned: Time at which the run's plan was made, in seconds since the epoch.
        fetch_threads: Files that a process fetches at a time.
    """

    def __init__(self, kind: RunKind, *, planned: float, fetch_threads: int):
        self._kind = kind
        self._fetching = Fetching(
            Source(kind.config.images, planned),
            kind.prepare,
            keep_pixels=kind.refines,
            max_pixels=kind.config.max_image_pixels,
            give_up=kind.config.store.give_up,
        )
        self._fetch_threads = fetch_threads
        self._warm = False

    def warm_up(self, nothing: list[None]) -> list[None]:
        """Prepare the process for `describe` of a kind that refines."""
        if not self._warm:
            self._kind.warm_up()
            self._warm = True
        return nothing

    def fetch(self, wanted: list[Wanted]) -> list[Fetched]:
        """Fetch and decode images; see `fetch_images`."""
        retry.be_patient(self._kind.config.store.patience)
        return fetch_images(wanted, _threads(self._fetch_threads), self._fetching)

    def describe(self, predicted: list[Predicted]) -> list[tuple[dict[str, Any] | Failure, float]]:
        """Return for each image its columns, or why there are none, and the milliseconds that they took."""
        if self._kind.refines:
            self.warm_up([])
        return [self._describe(one) for one in predicted]

    def _describe(self, predicted: Predicted) -> tuple[dict[str, Any] | Failure, float]:
        start = time.perf_counter()
        try:
            columns: dict[str, Any] | Failure = self._kind.row(predicted.fetched, predicted.result)
        except StageError as error:
            columns = error.args[0]
        except Exception as error:  # whatever it is, it belongs to this image
            columns = Failure.of("describe", error)
        return columns, 1000 * (time.perf_counter() - start)


def start_helpers(
    kind: RunKind, processes: int, *, planned: float = 0.0, threads: int = THREADS, keeps: int | None = None
) -> HelperPool:
    """Start helper processes for a run; for `planned` see `ImageWorker`, for the others `HelperPool`."""
    fetches = kind.config.scaling.fetch_threads or max(16, 8 * processes)
    worker = ImageWorker(kind, planned=planned, fetch_threads=max(1, fetches // processes))
    return HelperPool(worker, processes=processes, threads=threads, keeps=keeps)


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)
