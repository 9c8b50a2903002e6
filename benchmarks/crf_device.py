"""The dense CRF in PyTorch on a device, beside our compiled one and pydensecrf on one core.

    python -m benchmarks.crf --device cuda

The images are drawn as in `benchmarks.crf`, 500x375 pixels with 21 classes of which an image has 3 to 6, for ten steps.
Ours start from float16 score maps, which for the form in PyTorch lie on the device, as the pixels do, and end with
labels; pydensecrf starts from probabilities. Times are medians in milliseconds for an image, on the device alone and in
a batch. `x core` is our compiled mode's time over the device's in the same mode and a batch, `x peer` is pydensecrf's
time over it. `labels` is the share of pixels that get another label than in our compiled exact mode. On a GPU, the
memory that the batch took is printed too.
"""

import os
import statistics
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.crf_peer import has_pydensecrf, pydensecrf_labels
from benchmarks.crf_scenes import PARAMETER_SETS, STRIDE, Scene, draw, probabilities_of
from benchmarks.measure import interleaved, timed
from pipeline.crf import CRFParams, Mode, crf_of_scores, gpu
from pipeline.crf.gpu.memory import bytes_needed

HEIGHT, WIDTH, CLASSES = 375, 500, 21
ON_CORE = 4  # images that one core refines in a round
MODES: tuple[Mode, ...] = ("exact", "pruned")


def compare_on_device(name: str, *, batch: int, rounds: int) -> None:
    """Time our CRF on a device, ours on a core, and pydensecrf if installed.

    Args:
        name: Device of PyTorch, "cuda" or "cpu"; a CPU computes on one core.
        batch: Number of images in a batch.
        rounds: Number of timed runs, of which the median is taken.
    """
    device = torch.device(name)
    if device.type == "cpu":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        torch.set_num_threads(1)
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else "one core"
    print(f"PyTorch {torch.__version__} on {hardware}, {WIDTH}x{HEIGHT}x{CLASSES}, ten steps, ms for an image")
    scenes = [draw(WIDTH, HEIGHT, classes=CLASSES, present=3 + i % 4, seed=i) for i in range(batch)]
    peer = has_pydensecrf()
    print(f"{'':4}{'mode':8}{'peer':>8}{'core':>8}{'alone':>8}{'batch':>8}{'x core':>8}{'x peer':>8}{'labels':>9}")
    for key, params in PARAMETER_SETS.items():
        exact = [_compiled(scene, params, "exact") for scene in scenes]
        for mode in MODES:
            on_core = _on_core(scenes[:ON_CORE], params, mode, rounds, peer=peer)
            on_device = _on_device(scenes, params, mode, rounds, device)
            differing = np.mean(on_device["labels"] != np.stack(exact))
            ratios = [on_core[one] / on_device["batch"] for one in ("core", "peer")]
            times = [on_core["peer"], on_core["core"], on_device["alone"], on_device["batch"]]
            print(
                f"{key:4}{mode:8}" + "".join(f"{1000 * seconds:8.2f}" for seconds in times)
                + "".join(f"{ratio:8.2f}" for ratio in ratios)
                + f"{differing:9.0e}  {1 / on_device['batch']:.0f} images/s{on_device['memory']}",
                flush=True,
            )  # fmt: skip


def _compiled(scene: Scene, params: CRFParams, mode: Mode) -> Any:
    return crf_of_scores(scene.pixels, scene.scores.astype(np.float16), stride=STRIDE, params=params, mode=mode).labels


def _on_core(scenes: list[Scene], params: CRFParams, mode: Mode, rounds: int, *, peer: bool) -> dict[str, float]:
    """Return the seconds for an image of pydensecrf (NaN if it is not installed) and of our compiled mode."""
    works = [partial(_compiled, scene, params, mode) for scene in scenes]
    seconds = {"peer": float("nan"), "core": statistics.mean(interleaved(works, rounds)[0])}
    if peer:
        works = [partial(pydensecrf_labels, s.pixels, probabilities_of(s), params) for s in scenes]
        seconds["peer"] = statistics.mean(interleaved(works, rounds)[0])
    return seconds


def _on_device(scenes: list[Scene], params: CRFParams, mode: Mode, rounds: int, device: torch.device) -> dict[str, Any]:
    """Return the seconds for an image alone and in a batch, the labels of the batch, and a remark on the memory.

    Raises:
        RuntimeError: A repetition has given other labels.
    """
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes])).to(device)
    scores = torch.from_numpy(np.stack([scene.scores for scene in scenes])).half().to(device)
    options: dict[str, Any] = {"stride": STRIDE, "params": params, "mode": mode}

    def refine(images: int) -> torch.Tensor:
        labels = gpu.refine_batch(pixels[:images], scores[:images], **options)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return labels

    labels = refine(len(scenes))
    refine(1)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    if not torch.equal(refine(len(scenes)), labels):
        raise RuntimeError("a repetition has given other labels")
    memory = ""
    if device.type == "cuda":
        used = torch.cuda.max_memory_allocated(device) - before
        memory = f", {used / 2**20:.0f} MiB; bound for an image {bytes_needed(HEIGHT, WIDTH, CLASSES) / 2**20:.0f} MiB"
    return {
        "alone": statistics.median(timed(partial(refine, 1)) for _ in range(rounds)),
        "batch": statistics.median(timed(partial(refine, len(scenes))) for _ in range(rounds)) / len(scenes),
        "labels": labels.cpu().numpy(),
        "memory": memory,
    }
