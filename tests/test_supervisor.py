"""Whatever ends a job's process, its exit code and last line say how to go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

JOB = """
import ctypes, os, signal, sys, time
from pipeline import cli, supervisor
from pipeline.stop import stoppable
from pipeline.errors import UserError

def main(arguments):
    {body}

sys.argv = ["job.py", "--option"]
supervisor.SECONDS_TO_END = 2
cli.run_resumable(main)
"""
ROOT = Path(__file__).parents[1]


def start(body: str, *, ignored: int | None = None) -> subprocess.Popen:
    """Start a job whose `main` has this body, and which inherits that a signal is ignored."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", JOB.format(body=body)]
    before = signal.getsignal(ignored or signal.SIGHUP)
    if ignored is not None:
        signal.signal(ignored, signal.SIG_IGN)
    try:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(ignored or signal.SIGHUP, before)


def result(body: str) -> tuple[int, str]:
    job = start(body)
    _, errors = job.communicate(timeout=120)
    return job.returncode, errors


def test_the_exit_code_of_a_job_is_its_own():
    assert result("return 4") == (4, "")
    assert result("raise UserError('what is wrong')") == (2, "error: what is wrong\n")
    code, errors = result("raise ValueError('a mistake in the program')")
    assert code == 1
    assert errors.startswith("Traceback")


def test_an_exit_code_that_c_code_changes_at_the_end_is_ignored():
    """Ray ends the process with 1 from its own handlers if its other processes have died."""
    assert result("import atexit; atexit.register(os._exit, 1); return 3") == (3, "")


def test_a_job_that_dies_says_how_to_go_on():
    for body, reason in [("ctypes.string_at(0)", "signal SIGSEGV"), ("os._exit(1)", "exit code 1")]:
        code, errors = result(body)
        assert code == 3
        assert errors == (
            f"error: the job's process has died ({reason}), or Ray has ended it. What is written is not lost: the same "
            "command goes on with the run\n"
        )


def wait_for_line(job: subprocess.Popen) -> None:
    assert job.stdout is not None
    assert job.stdout.readline()


def test_sigterm_stops_a_job():
    job = start("with stoppable(lambda: '3 of 9 images'): print('ready', flush=True); time.sleep(60)")
    wait_for_line(job)
    job.send_signal(signal.SIGTERM)
    _, errors = job.communicate(timeout=60)
    assert (job.returncode, errors) == (
        3,
        "error: stopped by SIGTERM: 3 of 9 images; the same command resumes the run\n",
    )


def test_sigterm_while_ray_starts_stops_a_job():
    """Ray's own handler, which is in place for some seconds, exits with the number of the signal."""
    line = "error: stopped by SIGTERM: 3 of 9 images; the same command resumes the run\n"
    assert result("with stoppable(lambda: '3 of 9 images'): sys.exit(signal.SIGTERM)") == (3, line)


def test_a_job_below_nohup_outlives_its_terminal():
    job = start("print('ready', flush=True); time.sleep(5); return 4", ignored=signal.SIGHUP)
    wait_for_line(job)
    job.send_signal(signal.SIGHUP)
    _, errors = job.communicate(timeout=60)
    assert (job.returncode, errors) == (4, "")


def test_a_block_in_another_thread_runs_without_handlers():
    assert result(
        "import threading\n    def work():\n        with stoppable(str): print('done', flush=True)\n"
        "    thread = threading.Thread(target=work)\n    thread.start()\n    thread.join()"
    ) == (0, "")


def test_a_job_that_does_not_stop_is_killed():
    job = start("signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)")
    wait_for_line(job)
    job.send_signal(signal.SIGTERM)
    _, errors = job.communicate(timeout=50)
    assert job.returncode == 3
    assert errors.startswith("error: stopped by SIGTERM.")


def test_the_job_ends_when_the_waiting_process_is_killed():
    job = start("print(os.getpid(), flush=True); time.sleep(60)")
    assert job.stdout is not None
    child = int(job.stdout.readline())
    job.kill()
    job.wait()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}/stat").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break  # dead, but nobody has asked for its exit code
        time.sleep(0.1)
    else:
        assert not Path(f"/proc/{child}").exists()
