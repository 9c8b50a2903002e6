"""Helper processes that do a worker's share of Python and of untrusted bytes: decoding, encoding, the dense CRF.

They are processes and not threads for two reasons. One interpreter's lock lets threads decode on about one and a half
cores. And a picture that crashes or hangs a decoder takes only its helper with it: the worker sees which calls were
lost, repeats them one picture at a time in a fresh process, and convicts a picture that ends two processes in which it
was alone.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pipeline.bulk.helper_process import Death, Helper, HelperDied
from pipeline.errors import IncompleteError

DEATHS_TO_CONVICT = 2
# Anybody may kill a process: a person, a node's shutdown, the kernel if memory is short. That it was one image's turn
# each time is believed after so many.
KILLS_TO_CONVICT = 4


class HelperPool:
    """Some helper processes with the same object; one that ends is replaced.

    Args:
        target: The object; it is pickled to each process. Its methods take a list of items and return a list with a
            result for each, or for the first of them at least.
        processes: Number of processes.
        threads: Calls that each process runs at a time.
        keeps: Bytes of freed memory that each process keeps for what it allocates next; None leaves that to the system.
    """

    def __init__(self, target: Any, *, processes: int, threads: int, keeps: int | None = None):
        from ray import cloudpickle  # it also takes classes that are defined in a script

        self._target = cloudpickle.dumps(target)
        self._threads = threads
        self._keeps = keeps
        self._lock = threading.Lock()
        self._helpers = [self._fresh() for _ in range(processes)]
        self._repeating = ThreadPoolExecutor(1)
        self._lonely: Helper | None = None  # the process in which lost calls are repeated, one item at a time

    def __len__(self) -> int:
        return len(self._helpers)

    def submit(self, method: str, items: Sequence[Any], *, seconds: float) -> "Future[list[Any]]":
        """Call a method with some items on the process that has the fewest calls.

        Args:
            method: Name of a method of the object.
            items: Its argument.
            seconds: Time after which a process that answers nothing is killed.

        Returns:
            The method's result. An item that ends its process, and then fresh processes in which it is alone, has a
            `Death` as its result. It is an `IncompleteError` if no process starts.
        """
        with self._lock:
            for i, helper in enumerate(self._helpers):
                if not helper.alive:
                    self._helpers[i] = self._fresh()
            helper = min(self._helpers, key=lambda h: h.load)
            booking = helper.book(seconds)
        first = helper.deliver(booking, method, list(items))  # copies the arrays, while others choose their helpers
        answer: Future[list[Any]] = Future()

        def done(result: Future) -> None:
            error = result.exception()
            if isinstance(error, HelperDied):
                try:
                    self._repeating.submit(self._repeat, method, list(items), seconds, answer, error.args[0])
                except RuntimeError:  # the pool is closed
                    answer.set_exception(error)
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result.result())

        first.add_done_callback(done)
        return answer

    def close(self) -> None:
        """End the processes."""
        for helper in [*self._helpers, self._lonely]:
            if helper is not None:
                helper.close()
        self._repeating.shutdown(wait=False)

    def _fresh(self) -> Helper:
        return Helper(self._target, threads=self._threads, keeps=self._keeps)

    def _repeat(self, method: str, items: list[Any], seconds: float, answer: "Future[list[Any]]", death: Death) -> None:
        """Call the method again in a process in which nothing else runs: with all items, or one after the other.

        All together if the process was killed from outside, so that the results are those of an undisturbed run to the
        last bit.
        """
        try:
            kills = 1
            while len(items) > 1 and death.killed and kills < KILLS_TO_CONVICT:
                result = self._call_alone(method, items, seconds)
                if not isinstance(result, Death):
                    answer.set_result(result)
                    return
                death = result
                kills += 1
            answer.set_result([self._or_death(method, item, seconds) for item in items])
        except BaseException as error:  # whatever the method raised belongs to the caller
            answer.set_exception(error)

    def _or_death(self, method: str, item: Any, seconds: float) -> Any:
        crashes = kills = 0
        while crashes < DEATHS_TO_CONVICT and kills < KILLS_TO_CONVICT:
            result = self._call_alone(method, [item], seconds)
            if not isinstance(result, Death):
                return result[0]
            kills += result.killed
            crashes += not result.killed
        return result

    def _call_alone(self, method: str, items: list[Any], seconds: float) -> list[Any] | Death:
        for _ in range(KILLS_TO_CONVICT):
            if self._lonely is None or not self._lonely.alive:
                self._lonely = self._fresh()
            try:
                return self._lonely.call(method, items, seconds=seconds).result()
            except HelperDied as error:
                death: Death = error.args[0]
            if death.ready:
                return death
            if not death.killed:
                break
        raise IncompleteError(f"a helper process does not start ({death.cause})")
