"""Timed runs of segpipe and its peers over a folder of images, each in a fresh process, for `benchmarks.bulk`."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from benchmarks.bulk_gpu import Utilisation

HERE = Path(__file__).resolve().parents[1]
SKIPPED = 5  # a steady rate leaves out the first fifth of the images


class Competitor(NamedTuple):
    """A way to segment a folder of images.

    Attributes:
        name: Its name in the report.
        command: The command without `--images` and `--output`.
        ours: Whether it is segpipe.
    """

    name: str
    command: list[str]
    ours: bool = False


class Run(NamedTuple):
    """A timed run.

    Attributes:
        images: Number of images.
        seconds: Time from the start of the process to its end.
        steady: Images per second after the first fifth, from the times of the files that a peer writes. None for
            segpipe, which merges its files at the end.
        utilisation: Mean utilisation of the GPU while it computes, in percent; None if it is not known.
    """

    images: int
    seconds: float
    steady: float | None
    utilisation: float | None


def competitors(bundle: str, *, batch: int, dtype: str) -> list[Competitor]:
    """Return the peers, the plain loop first and segpipe last."""
    peer = [sys.executable, "-m", "benchmarks.bulk_peers", "--bundle", bundle, "--dtype", dtype]
    peer += ["--batch", str(batch)]
    return [
        Competitor("plain loop", [*peer, "loop"]),
        Competitor("DataLoader", [*peer, "dataloader"]),
        Competitor("Ray Data", [*peer, "ray"]),
        Competitor("segpipe", _segpipe(bundle, dtype), ours=True),
    ]


def refining_competitors(bundle: str, *, batch: int, dtype: str, pydensecrf: bool) -> list[Competitor]:
    """Return the competitors with a dense CRF: peers with pydensecrf if it is installed, and segpipe last."""
    loop, loader, _, _ = competitors(bundle, batch=batch, dtype=dtype)
    ours = Competitor("segpipe --crf", [*_segpipe(bundle, dtype), "--crf"], ours=True)
    if not pydensecrf:
        return [ours]
    return [
        Competitor("plain loop, pydensecrf", [*loop.command, "--crf"]),
        Competitor("DataLoader, pydensecrf pool", [*loader.command, "--crf"]),
        ours,
    ]


def _segpipe(bundle: str, dtype: str) -> list[str]:
    return [sys.executable, str(HERE / "jobs" / "segment.py"), "--model", bundle, "--dtype", dtype]


def timed_run(competitor: Competitor, images: Path, home: Path) -> Run:
    """Run a competitor in a fresh process and check that it made a mask of each image.

    Args:
        competitor: What is run.
        images: Folder of images.
        home: Folder for its output, outside of any checkout.
    """
    output = home / "output"
    command = [*competitor.command, "--images", str(images), "--output", str(output)]
    start = time.perf_counter()
    with Utilisation(os.environ["CUDA_VISIBLE_DEVICES"]) as utilisation:
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{competitor.name} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    count = len(list(images.iterdir()))
    if competitor.ours:
        (manifest,) = output.glob("run_id=*/manifest.json")
        content = json.loads(manifest.read_text())
        masks, steady = content["images"] - content["errors"], None
    else:
        written = sorted(_written(file) for file in output.iterdir())
        masks, steady = sum(number for _, number in written), _steady_rate(written)
    shutil.rmtree(output)
    if masks != count:
        raise RuntimeError(f"{competitor.name} wrote {masks} masks of {count} images")
    return Run(count, seconds, steady, utilisation.mean)


def _written(file: Path) -> tuple[float, int]:
    """Return when a file was written, and how many masks it holds."""
    masks = pq.read_metadata(file).num_rows if file.suffix == ".parquet" else 1
    return file.stat().st_mtime, masks


def _steady_rate(written: list[tuple[float, int]]) -> float | None:
    total = sum(number for _, number in written)
    before, skipped = 0, written[0][0]
    for moment, number in written:
        before, skipped = before + number, moment
        if before >= total / SKIPPED:
            break
    return rate(total - before, written[-1][0] - skipped)


def rate(images: int, seconds: float) -> float | None:
    """Return images per second; None if the time is too short to be measured."""
    return images / seconds if images > 0 and seconds > 0 else None


def summary(name: str, runs: list[Run]) -> dict[str, Any]:
    """Summarise a competitor's runs over two sizes by the medians over the rounds.

    Args:
        name: Name of the competitor.
        runs: Its runs.

    Returns:
        `all_in`: images per second of the large runs. `beyond`: images per second of the images by which the sizes
        differ, which is the rate of a large collection. `fixed_seconds`: what the large runs take beyond that.
        `steady` and `utilisation`: see `Run`. `runs`: the runs.
    """
    small, large = min(run.images for run in runs), max(run.images for run in runs)
    of_large = [run for run in runs if run.images == large]
    seconds = statistics.median(run.seconds for run in of_large)
    beyond = rate(large - small, seconds - statistics.median(run.seconds for run in runs if run.images == small))
    return {
        "name": name,
        "all_in": rate(large, seconds),
        "beyond": beyond,
        "fixed_seconds": seconds - large / beyond if beyond else None,
        "steady": _median([run.steady for run in of_large]),
        "utilisation": _median([run.utilisation for run in of_large]),
        "runs": [run._asdict() for run in runs],
    }


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
