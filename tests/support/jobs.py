"""Running the jobs as users do: as processes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[2]
JOBS = sorted(job.stem for job in (REPO / "jobs").glob("*.py"))


def command(job: str, **options: object) -> list[str]:
    """Return the command `jobs/JOB.py --option value …`; two underscores stand for a dot, and True for a bare flag."""
    arguments = [sys.executable, str(REPO / "jobs" / f"{job}.py")]
    for name, value in options.items():
        flag = "--" + name.replace("__", ".").replace("_", "-")
        arguments += [flag] if value is True else [flag, str(value)]
    return arguments


def run_job(job: str, *, environment: dict[str, str] | None = None, **options: object) -> subprocess.CompletedProcess:
    """Run a job to its end; its output is captured as text."""
    return subprocess.run(
        command(job, **options), env=os.environ | (environment or {}), capture_output=True, text=True, cwd=REPO
    )


def succeed(job: str, *, environment: dict[str, str] | None = None, **options: object) -> str:
    """Run a job that must exit with 0, and return its standard output."""
    result = run_job(job, environment=environment, **options)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout


def kill_when(
    condition: Callable[[], bool],
    job: str,
    *,
    number: int = signal.SIGKILL,
    environment: dict[str, str] | None = None,
    **options: Any,
) -> tuple[int, str]:
    """Start a job and send its driver a signal as soon as the condition holds, which must be before the job ends.

    Returns:
        The exit code, and all that the job wrote.
    """
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command(job, **options), env=os.environ | (environment or {}), stdout=output, stderr=output, cwd=REPO
        )
        try:
            while not condition():
                if process.poll() is not None:
                    output.seek(0)
                    pytest.fail(f"{job} ended before it could be killed:\n{output.read()[-4000:]}")
                time.sleep(0.02)
            process.send_signal(number)
            process.wait(60)
            output.seek(0)
            return process.returncode, output.read()
        finally:
            process.kill()
            process.wait()


def tiny_training(scenes: str, output: str, **changes: object) -> dict[str, Any]:
    """Return options of `jobs/train.py` that train a tiny network on the scenes."""
    return {
        "model": "deeplabv3_resnet18",
        "model_options": "width=0.125",
        "train__images": f"{scenes}/train/images",
        "train__labels": f"{scenes}/train/labels",
        "val__images": f"{scenes}/val/images",
        "val__labels": f"{scenes}/val/labels",
        "classes": f"{scenes}/classes.yaml",
        "output": output,
        "epochs": 2,
        "batch_size": 4,
        "augmentation.crop": "64,64",
    } | changes
