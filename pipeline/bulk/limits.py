"""The limits after which a bulk run stops by itself: a share of errors, and a deadline."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pipeline.bulk.outcome import Outcome
from pipeline.errors import IncompleteError, TooManyErrors
from pipeline.units import format_duration

FEWEST_IMAGES = 100  # after which a share of errors is no chance
AGAIN_SECONDS = 30.0  # until an alarm rings again: some places swallow an interrupt, such as destructors


def check_error_rate(outcome: Outcome, limit: float | None) -> None:
    """Stop a run that is plainly misconfigured, while it goes on.

    Args:
        outcome: What this process has written so far.
        limit: Largest share of errors; None for no limit.

    Raises:
        TooManyErrors: At least `FEWEST_IMAGES` are done, and more of them have failed.
    """
    if limit is None or outcome.seen < FEWEST_IMAGES or outcome.errors <= limit * outcome.seen:
        return
    (cause,) = outcome.causes.most_common(1)
    raise TooManyErrors(
        f"stopped, because {_share(outcome.errors, outcome.seen, limit)}; {_describe(cause)}. Remove the cause and run "
        "the same command again: it computes the other images, and --retry-errors computes these again"
    )


def check_finished(images: int, errors: int, limit: float | None, *, run: str) -> None:
    """Report a finished run of which too many images have failed.

    Args:
        images: Images of the run.
        errors: Errors among them.
        limit: Largest share of errors; None for no limit.
        run: Folder of the run, fit for a message.

    Raises:
        TooManyErrors: More images have failed.
    """
    if limit is not None and errors > limit * images:
        raise TooManyErrors(
            f"the run is complete, but {_share(errors, images, limit)}. segpipe status {run} counts them by cause, and "
            f"--retry-errors {run} computes them again"
        )


def _share(errors: int, images: int, limit: float) -> str:
    return f"{errors:,} of {images:,} images failed, more than --max-error-rate {limit:g} accepts"


def _describe(cause: dict[str, Any]) -> str:
    example = cause["example"].rstrip(".")
    return f"{cause['count']:,} of them in {cause['stage']} with {cause['class']}, such as {example}"


class Alarm:
    """A timer that interrupts the main thread, even while it waits for Ray.

    Ray lets only a `KeyboardInterrupt` through when a signal arrives, so the alarm raises that.

    Attributes:
        has_rung: Whether the time is over.
    """

    def __init__(self) -> None:
        self.has_rung = False
        self._is_set = False
        self._before: Any = None

    def set(self, seconds: float) -> None:
        """Ring after some time; called in the main thread."""
        self._is_set = True
        self._before = signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)

    def cancel(self) -> None:
        """Do not ring any more."""
        if self._is_set:
            self._is_set = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)

    def _ring(self, _: int, __: FrameType | None) -> None:
        if self._is_set:
            self.has_rung = True
            raise KeyboardInterrupt


@contextmanager
def deadline(seconds: float | None, progress: Callable[[], str]) -> Iterator[Alarm]:
    """Stop the block after some time.

    Args:
        seconds: The time; None for no deadline.
        progress: Describes for the message how far the run has come.

    Yields:
        The alarm, which can be cancelled.

    Raises:
        IncompleteError: The time is over.
    """
    alarm = Alarm()
    if seconds is not None:
        alarm.set(seconds)
    try:
        yield alarm
    except BaseException:  # the interrupt, or what a library has made of it
        alarm.cancel()
        if not alarm.has_rung or seconds is None:
            raise
        raise IncompleteError(
            f"stopped at the --deadline of {format_duration(seconds)}: {progress()}; the same command resumes the run"
        ) from None
    finally:
        alarm.cancel()
