"""A job in a process of its own, and beside it one that is left when the job's process dies.

When a Ray process dies, Ray's C++ code may end the driver at once: no Python code runs any more, and pages of its log
are all that its user sees. The process that waits here says in one line what has happened and how to go on.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from pipeline.errors import IncompleteError

SECONDS_TO_END = 27  # after SIGTERM; schedulers kill after 30
MOST_OF_A_LINE = 4000  # bytes, which a pipe takes at once, before anybody reads
_PR_SET_PDEATHSIG = 1
_FORWARDED = (signal.SIGTERM, signal.SIGHUP)


def supervise(job: Callable[[Callable[[int, str], object]], NoReturn]) -> NoReturn:
    """Run a job in a child process, and exit with its exit code.

    SIGTERM and SIGHUP are handed on. The job is killed if it does not end in time after SIGTERM, and if this process is
    killed.

    Args:
        job: Ends with `sys.exit`, and before that calls its argument with its exit code and the line for standard
            error. Ray may change that code, and print lines of its own, when Python exits.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        end_with_parent(signal.SIGKILL)
        job(lambda code, line: os.write(writing, bytes([code]) + line.encode()[:MOST_OF_A_LINE]))
    os.close(writing)
    stopped = _hand_on_signals(child)
    _, status = os.waitpid(child, 0)
    if told := os.read(reading, 1 + MOST_OF_A_LINE):
        if line := told[1:].decode(errors="replace"):
            print(line, file=sys.stderr)
        sys.exit(told[0])
    code = os.waitstatus_to_exitcode(status)
    reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    cause = "stopped by SIGTERM" if stopped else f"the job's process has died ({reason}), or Ray has ended it"
    if sys.stderr.isatty():
        print(file=sys.stderr)  # The job's progress bar stands on the line.
    print(f"error: {cause}. What is written is not lost: the same command goes on with the run", file=sys.stderr)
    sys.exit(IncompleteError.exit_code)


def end_with_parent(number: int) -> None:
    """Let a signal reach this process when its parent dies, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _hand_on_signals(child: int) -> list[int]:
    """Send signals on to the child; return a list that will hold those that have come."""
    stopped: list[int] = []

    def hand_on(number: int, _: Any) -> None:
        stopped.append(number)
        os.kill(child, number)
        signal.alarm(SECONDS_TO_END)

    for number in _FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:  # as SIGHUP is below nohup
            signal.signal(number, hand_on)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the child as well
    return stopped
