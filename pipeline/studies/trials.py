"""The trials of a comparative study: chains of jobs, which run as processes and resume by themselves.

A step of a trial has a folder that its options and its seed decide. So a step that several variants share runs once, a
step that is done is not run again, and the same command goes on after the driver was killed. A trial that fails does
not stop the others.
"""

import hashlib
import json
import posixpath
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tqdm import tqdm

from pipeline import parquet, python, storage
from pipeline.errors import UserError
from pipeline.studies.description import Description, Options, Score, resolve
from pipeline.training.records import read_records
from pipeline.units import format_duration

DONE = "done.json"
LOG = "log.txt"
RUN = "result"  # run_id of the bulk runs of a trial
# What `python -m pipeline` does, in a process that ends with the study, which resumes its trials.
_COMMAND = """
import signal
from pipeline.supervisor import end_with_parent
end_with_parent(signal.SIGTERM)
from pipeline.__main__ import main
main()
"""
TRAINING = ("train", "train-classifier", "train-detector")


class Trial(NamedTuple):
    """A variant with a seed.

    Attributes:
        variant: Name of the variant.
        seed: Seed of training.
    """

    variant: str
    seed: int

    @property
    def name(self) -> str:
        """Name for people."""
        return f"{self.variant}, seed {self.seed}"


class Outcome(NamedTuple):
    """The result of a trial.

    Attributes:
        trial: The trial.
        score: Its score; None if it failed.
        seconds: Time of its jobs, those that it shares with other trials included; of a job that was interrupted, only
            that of the last attempt. None if it failed.
        problem: The last line of the job that failed.
        results: Result of each step that is done.
    """

    trial: Trial
    score: float | None
    seconds: float | None
    problem: str | None
    results: dict[str, str]


class Trials:
    """The trials of a study.

    Args:
        description: The study.
        own: The user's options by step.
        folder: The study's folder.
        seeds: Number of trials of each variant.

    Raises:
        UserError: The options name no step, or a seed.
    """

    def __init__(self, description: Description, own: Options, folder: str, *, seeds: int):
        self.description = description
        self.folder = folder
        self.trials = [Trial(variant, seed) for seed in range(seeds) for variant in description.variants]
        self.options = {
            variant: {step: resolve(description, own, variant, step) for step in description.steps}
            for variant in description.variants
        }
        for name, step in description.steps.items():
            if step.job in TRAINING and "seed" in (own.get(name) or {}):
                raise UserError(f"--options: {name}.seed: each trial has a seed of its own; leave it out (see --seeds)")
        self._locks: dict[str, threading.Lock] = {}
        self._failed: dict[str, StepResult] = {}  # a step that several trials share fails once for all
        self._printing = threading.Lock()

    def run(self, *, parallel: int) -> list[Outcome]:
        """Run what is not done, some trials at a time, and return the result of every trial."""
        with (
            tqdm(total=len(self.trials), unit="trial", disable=not sys.stderr.isatty()) as bar,
            ThreadPoolExecutor(parallel) as pool,
        ):
            return list(pool.map(lambda trial: self._run_and_tell(trial, bar), self.trials))

    def _run_and_tell(self, trial: Trial, bar: tqdm) -> Outcome:
        outcome = self._run(trial)
        text = outcome.problem
        if outcome.score is not None:
            text = f"{self.description.score.title} {outcome.score:.4f}, {format_duration(outcome.seconds or 0)}"
        with self._printing:
            bar.update()
            bar.write(f"{trial.name}: {text}", file=sys.stdout)
            sys.stdout.flush()
        return outcome

    def _run(self, trial: Trial) -> Outcome:
        results: dict[str, str] = {}
        seconds = 0.0
        for name, step in self.description.steps.items():
            options = self.options[trial.variant][name]
            done = self._run_step(name, step.job, _filled(options, results | {"seed": str(trial.seed)}), trial.seed)
            if done.problem is not None:
                return Outcome(trial, None, None, f"{name}: {done.problem}", results)
            results[name] = done.result
            seconds += done.seconds
        try:
            score = read_score(self.description.score, results[self.description.score.step])
        except UserError as error:
            return Outcome(trial, None, None, str(error), results)
        return Outcome(trial, score, seconds, None, results)

    def _run_step(self, name: str, job: str, options: Options, seed: int) -> "StepResult":
        """Run a job, unless another trial or an earlier command has run it."""
        if job in TRAINING:
            options = {**options, "seed": seed}
        digest = hashlib.sha256(json.dumps([job, options], sort_keys=True).encode()).hexdigest()[:12]
        folder = storage.join(self.folder, "steps", f"{name}-{digest}")
        result = folder if job in TRAINING else storage.join(folder, f"run_id={RUN}")
        with self._locks.setdefault(folder, threading.Lock()):
            if folder in self._failed:
                return self._failed[folder]
            marker = storage.join(folder, DONE)
            if storage.exists(marker):
                return StepResult(result, json.loads(storage.read_bytes(marker))["seconds"], None)
            start = time.monotonic()
            problem = _run_job(job, options, folder)
            seconds = time.monotonic() - start
            if problem is None:
                content = {"job": job, "options": options, "seconds": seconds}
                storage.write_bytes(marker, json.dumps(content, indent=2).encode())
            done = StepResult(result, seconds, problem)
            if problem is not None:
                self._failed[folder] = done
            return done


class StepResult(NamedTuple):
    """The result of a step.

    Attributes:
        result: The bundle of a training run, or the folder of a bulk run.
        seconds: Time of the job.
        problem: The job's last line if it failed.
    """

    result: str
    seconds: float
    problem: str | None


def _run_job(job: str, options: Options, folder: str) -> str | None:
    """Run a command of segpipe, keep its output beside its results, and return its last line if it fails."""
    given = options | {"output": folder} | ({} if job in TRAINING else {"run_id": RUN})
    with tempfile.TemporaryDirectory(prefix="segpipe-study-") as temporary:
        config = Path(temporary) / "options.yaml"
        config.write_text(yaml.safe_dump(given))
        done = subprocess.run(
            python.command(_COMMAND, job, "--config", str(config)),
            env=python.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    storage.write_bytes(storage.join(folder, LOG), done.stdout.encode())
    lines = done.stdout.strip().splitlines()
    return (lines[-1] if lines else f"exit code {done.returncode}") if done.returncode else None


def _filled(value: Any, names: dict[str, str]) -> Any:
    """Return options in which {name} is replaced by what it stands for."""
    if isinstance(value, dict):
        return {key: _filled(part, names) for key, part in value.items()}
    if isinstance(value, list):
        return [_filled(part, names) for part in value]
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace("{" + name + "}", text)
    return value


def read_score(score: Score, result: str) -> float:
    """Read the score of a finished step.

    Raises:
        UserError: There is no such score.
    """
    if score.table is None:
        values = [record.get(score.column) for record in read_records(result)]
        found = [value for value in values if isinstance(value, int | float)]
        if not found:
            raise UserError(f"{storage.redact(result)}: no epoch has a score '{score.column}'")
        return float(max(found))
    url = storage.join(result, score.table, posixpath.basename(score.table) + ".parquet")
    with storage.friendly_errors(url, "cannot read the table of the score"):
        rows = parquet.read_table(url).to_pylist()
    chosen = [row for row in rows if all(str(row.get(key)) == value for key, value in score.where.items())]
    if not chosen or chosen[-1].get(score.column) is None:
        raise UserError(
            f"{storage.redact(url)}: {len(chosen)} rows fit {score.where or 'the score'}, and the last has no value of "
            f"'{score.column}'"
        )
    return float(chosen[-1][score.column])
