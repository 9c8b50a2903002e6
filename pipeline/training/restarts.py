"""Starting a training again if a worker died while it started, which Ray Train itself takes for its own error."""

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayActorError
from ray.train import ControllerError

from pipeline.errors import IncompleteError


def fit(make_trainer: Callable[[], Any], *, restarts: int) -> None:
    """Run Ray Train to the end of the training, from the last checkpoint if it is started again.

    Ray Train replaces workers that die while they train. One that dies while it starts ends its controller.

    Args:
        make_trainer: Makes the trainer, which goes on with what is stored.
        restarts: Number of times that the training is started again.

    Raises:
        IncompleteError: Workers died more often than that.
        KeyboardInterrupt: The user has interrupted it.
    """
    for remaining in range(restarts, -1, -1):
        before = signal.getsignal(signal.SIGINT)
        try:
            make_trainer().fit()
            return
        except SystemExit:
            raise KeyboardInterrupt from None  # Ray Train's own handler of Ctrl-C exits
        except ControllerError as error:
            if not isinstance(error.controller_failure, RayActorError):
                raise
            if not remaining:
                raise IncompleteError(
                    "the workers die while they start; is there enough memory? The same command goes on with the run"
                ) from None
            print("a worker died while it started: the training starts again", file=sys.stderr, flush=True)
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, before)
