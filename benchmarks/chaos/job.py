"""The job as a scheduler runs it: a process with a log, of which the end is judged by its exit code and last lines."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.chaos.cluster import HERE, kill
from benchmarks.chaos.processes import descendants, handles

DONE, INCOMPLETE = 0, 3  # exit codes
TRACEBACK = "Traceback (most recent call last)"
HOW_TO_GO_ON = re.compile(r"same command|resume")
DRAIN_SECONDS = 30


class Job:
    """A running job.

    Args:
        arguments: The command line after `segpipe segment`.
        environment: Its environment.
        log: File for its output.
    """

    def __init__(self, arguments: list[str], *, environment: dict[str, str], log: Path):
        self._log = log
        self.started = time.monotonic()
        self.ended = 0.0
        self.killed = False  # by us, with SIGKILL
        self.terminated: float | None = None  # when we sent SIGTERM
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "jobs" / "segment.py"), *arguments],
                cwd=HERE,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        code = self._process.poll()
        if code is not None:
            self.ended = self.ended or time.monotonic()
        return code

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    @property
    def handles_sigterm(self) -> bool:
        """Whether the driver has come so far that it ends in an orderly way."""
        return handles(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill all processes of the job at once, as a lost node does."""
        self.killed = True
        self.send(signal.SIGKILL)

    def kill_child(self) -> bool:
        """Kill the process that does the work, and leave the one that waits for it; return whether there is one."""
        children = descendants(self._process.pid)
        for child in children:
            kill(child.pid)
        return bool(children)

    def terminate(self) -> None:
        """Ask the driver to end, as a scheduler does before it kills."""
        self.terminated = self.terminated or time.monotonic()
        kill(self._process.pid, signal.SIGTERM)

    def send(self, number: int) -> None:
        """Send a signal to all processes of the job."""
        if self.code is None:
            os.killpg(self._process.pid, number)

    def end(self) -> None:
        """Kill the process if it still runs."""
        self.send(signal.SIGKILL)
        self._process.wait()


class Ending(NamedTuple):
    """How a job ended.

    Attributes:
        finished: Whether it says that the run is complete.
        finding: What is wrong with this ending; None if nothing is.
    """

    finished: bool
    finding: str | None


def judge(job: Job, *, overdue: bool) -> Ending:
    """Judge the ending of a job.

    Args:
        job: A job that has ended.
        overdue: Whether it was killed because it took too long.
    """
    code, output = job.code, job.output
    # The line of JSON, which comes last, is for machines.
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("{")]
    last = lines[-1][-300:] if lines else "(no output)"
    if overdue:
        return Ending(False, f"did not end in time; its last line: {last}")
    if code == DONE:
        return Ending(True, None)
    if job.killed:
        return Ending(False, None)
    if code != INCOMPLETE:
        return Ending(False, f"exit code {code} behind {len(lines)} lines; the last: {last}")
    if TRACEBACK in output:
        return Ending(False, f"exit code 3 behind a traceback; the last line: {last}")
    if not any(line.startswith("error:") and HOW_TO_GO_ON.search(line) for line in lines):
        return Ending(False, f"exit code 3 without a line that says how to go on; the last: {last}")
    if job.terminated is not None and (seconds := job.ended - job.terminated) > DRAIN_SECONDS:
        return Ending(False, f"ended {seconds:.0f} s after SIGTERM; {DRAIN_SECONDS} s are promised")
    return Ending(False, None)
