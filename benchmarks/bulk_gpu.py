"""Measures of a bulk segmentation on a GPU, for `benchmarks.bulk`: the bare network, and the GPU's utilisation."""

import multiprocessing
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from benchmarks.bulk_stages import wait_for
from pipeline.bundle import load_bundle
from pipeline.data.preprocessing import DType
from pipeline.errors import one_line
from pipeline.predict.device import autocast, pick_device, place

BATCH, SIZE = 32, 512  # images in a batch, and their height and width
DTYPE: DType = "bfloat16"


def device_name() -> str:
    """Return the name of the GPU, which only a process of its own initialises: its memory belongs to the runs."""
    with _process() as pool:
        return pool.submit(torch.cuda.get_device_name).result()


def bare_rates(bundle: str, *, batch: int = BATCH, size: int = SIZE, seconds: float = 5) -> dict[str, float | str]:
    """Measure the images per second of a network alone, in a process of its own: input and scores stay on the device.

    Args:
        bundle: Bundle of the network.
        batch: Images in a batch.
        size: Height and width of the images.
        seconds: Time to measure each.

    Returns:
        Images per second, "eager" and "compiled" by `torch.compile`; the reason in place of a rate if that fails.
    """
    with _process() as pool:
        return pool.submit(_bare_rates, bundle, batch, size, seconds).result()


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


@torch.inference_mode()
def _bare_rates(bundle: str, batch: int, size: int, seconds: float) -> dict[str, float | str]:
    device = pick_device()
    model, _ = load_bundle(bundle)
    network = place(model, device)
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)

    def rate(forward: Callable[[Any], Any]) -> float:
        with autocast(device, DTYPE):
            for _ in range(3):  # cuDNN chooses its algorithms, or the network is compiled
                forward(images)
            wait_for(device)
            start, done = time.perf_counter(), 0
            while time.perf_counter() - start < seconds:
                for _ in range(4):  # waiting for each batch would leave gaps
                    forward(images)
                wait_for(device)
                done += 4 * batch
            return done / (time.perf_counter() - start)

    rates: dict[str, float | str] = {"eager": rate(network)}
    try:
        rates["compiled"] = rate(torch.compile(network))
    except Exception as error:  # whatever the compiler lacks
        rates["compiled"] = f"{type(error).__name__}: {one_line(error)}"
    return rates


class Utilisation:
    """Asks nvidia-smi for a GPU's utilisation, once a second while the context is open.

    Args:
        gpu: Number or name of the GPU.
    """

    def __init__(self, gpu: str):
        self._command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"--id={gpu}"]
        self._samples: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Utilisation":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def mean(self) -> float | None:
        """Mean percentage from the first sample in which the GPU computes to the last; None if there is none."""
        busy = [i for i, sample in enumerate(self._samples) if sample > 0]
        if not busy:
            return None
        computing = self._samples[busy[0] : busy[-1] + 1]
        return sum(computing) / len(computing)

    def _sample(self) -> None:
        if shutil.which(self._command[0]) is None:
            return
        while not self._ended.wait(1.0):
            answer = subprocess.run(self._command, capture_output=True, text=True, check=False)
            if answer.returncode or not answer.stdout.strip().isdigit():
                return
            self._samples.append(float(answer.stdout))
