"""A helper process of a worker, which calls the methods of an object for it.

Arguments and results are messages on a socket, whose arrays lie in memory that both processes have mapped. A process
that ends leaves its calls with the reason, so that the worker can find out which picture it was.
"""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from pipeline import allocator, python
from pipeline.bulk import arena
from pipeline.bulk.transport import Channel, Closed
from pipeline.errors import IncompleteError, one_line

SECONDS_TO_START = 300.0  # on a busy machine
# Shared memory of a process; larger messages travel by a file each. Pages that are never used cost nothing.
ARGUMENT_BYTES, RESULT_BYTES = 32 * 2**20, 64 * 2**20
_READY = 0  # number of a process's first message, which answers no call


@dataclass
class Death:
    """Why a helper process ended.

    Attributes:
        cause: The reason in a few words.
        ready: Whether it had begun to take calls, so that a call may have been the reason.
        killed: Whether it was killed from outside.
    """

    cause: str
    ready: bool
    killed: bool


class HelperDied(Exception):
    """The helper process of a call has ended; the argument is its `Death`."""


@dataclass
class _Call:
    answer: Future
    seconds: float


class Booking(NamedTuple):
    """A call that a helper process will get.

    Attributes:
        number: Number of the call.
        answer: Its future answer.
    """

    number: int
    answer: Future


class Helper:
    """A process that calls the methods of an object.

    Args:
        target: The pickled object.
        threads: Calls that the process runs at a time.
        keeps: Bytes of freed memory that the process keeps for what it allocates next; None leaves that to the system.
    """

    def __init__(self, target: bytes, *, threads: int, keeps: int | None = None):
        ours, theirs = socket.socketpair()
        shared = [d for d in (arena.create(ARGUMENT_BYTES), arena.create(RESULT_BYTES)) if d is not None]
        descriptors = [theirs.fileno(), *shared]
        serving = f"from pipeline.bulk.helper_process import serve; serve({threads}, *{descriptors})"
        with theirs:
            self._process = subprocess.Popen(
                python.command(serving),
                pass_fds=descriptors,
                env=allocator.without(python.environment()) | ({} if keeps is None else allocator.keep_freed(keeps)),
                stdin=subprocess.DEVNULL,
            )
        self._connection = ours
        self._channel = _channel(ours, shared)
        self._calls: dict[int, _Call] = {}
        self._lock = threading.Lock()
        self._answered = time.monotonic()
        self._overdue = 0.0
        self._ready = False
        self._death: Death | None = None
        self._count = 0
        threading.Thread(target=self._read, daemon=True).start()
        self._send(target)

    @property
    def alive(self) -> bool:
        """Whether the process takes calls."""
        return self._death is None

    @property
    def load(self) -> int:
        """Number of calls that are not answered yet."""
        return len(self._calls)

    def call(self, method: str, *arguments: Any, seconds: float) -> Future:
        """Call a method of the object.

        Args:
            method: Name of the method.
            *arguments: Its arguments.
            seconds: The process is killed if it answers no call for so long.

        Returns:
            The result, what the method raised, or `HelperDied`.
        """
        return self.deliver(self.book(seconds), method, *arguments)

    def book(self, seconds: float) -> Booking:
        """Count a call, which `deliver` sends; for `seconds` see `call`."""
        answer: Future = Future()
        with self._lock:
            if self._death is not None:
                answer.set_exception(HelperDied(self._death))
            if not self._calls:
                self._answered = time.monotonic()
            self._count += 1
            if self._death is None:
                self._calls[self._count] = _Call(answer, seconds)
            return Booking(self._count, answer)

    def deliver(self, booking: Booking, method: str, *arguments: Any) -> Future:
        """Send a call that is booked; see `call`."""
        if not booking.answer.done():
            self._send((booking.number, method, arguments))
        return booking.answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()

    def _send(self, value: Any) -> None:
        with contextlib.suppress(Closed):  # the reading thread finds out why
            self._channel.send(value)

    def _read(self) -> None:
        fault: Exception | None = None
        while True:
            try:
                while not wait([self._connection], timeout=1.0):
                    self._kill_if_overdue()
                number, failed, value = self._channel.receive()
            except Closed:
                break
            except Exception as error:  # out of memory or descriptors, for example: no item is to blame, and none waits
                fault = error
                break
            if number == _READY:
                self._ready = True
                self._answered = time.monotonic()
                continue
            with self._lock:
                call = self._calls.pop(number)
                self._answered = time.monotonic()
            if failed:
                call.answer.set_exception(value)
            else:
                call.answer.set_result(value)
            del call, value  # the arrays of both would stay until the next answer
        self._process.kill()
        code = self._process.wait()
        self._channel.close()
        with self._lock:
            cause = f"no end after {self._overdue:.0f} s" if self._overdue else _cause(code)
            self._death = Death(cause, self._ready, killed=not self._overdue and code in _KILLED)
            lost, self._calls = list(self._calls.values()), {}
        for call in lost:
            call.answer.set_exception(fault or HelperDied(self._death))

    def _kill_if_overdue(self) -> None:
        with self._lock:
            patience = max((call.seconds for call in self._calls.values()), default=None)
            if patience is not None and not self._ready:
                patience = max(patience, SECONDS_TO_START)
            if patience is not None and time.monotonic() - self._answered > patience:
                self._overdue = patience
                self._process.kill()


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # one of the real-time signals, which have no names
        name = f"signal {-code}"
    if name == "SIGALRM":
        return "no end of decoding"
    return f"{name}, out of memory?" if code in _KILLED else f"{name}, a crash in a library"


_KILLED = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP)


def serve(threads: int, descriptor: int, *shared: int) -> None:
    """Answer calls until the other end of a socket closes; the main function of a helper process.

    Args:
        threads: Calls to run at a time.
        descriptor: Descriptor of the socket.
        *shared: Descriptors of the memory for arguments and of that for results.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker decides when its helpers end
    channel = _channel(socket.socket(fileno=descriptor), list(reversed(shared)))

    def answer(number: int, method: str, arguments: tuple[Any, ...]) -> None:
        try:
            result = (number, False, getattr(target, method)(*arguments))
        except BaseException as error:  # the worker raises it again
            result = (number, True, _portable(error))
        try:
            channel.send(result)
        except Closed:
            pass
        except Exception as error:  # before its first byte: no memory or no descriptor for it, for example
            lost = IncompleteError(f"a helper process cannot send its answer ({one_line(error)})")
            channel.send((number, True, lost))

    try:
        target = pickle.loads(channel.receive())
        pool = ThreadPoolExecutor(threads)
        channel.send((_READY, False, None))
        while True:
            pool.submit(answer, *channel.receive())
    except Closed:
        os._exit(0)


def _channel(connection: socket.socket, shared: list[int]) -> Channel:
    """Return the end of a connection that sends through the first memory and receives through the second, if any."""
    if not shared:
        return Channel(connection)
    outgoing, incoming = (arena.attach(descriptor) for descriptor in shared)
    for descriptor in shared:
        os.close(descriptor)
    return Channel(connection, outbox=arena.Outbox(outgoing), inbox=arena.Inbox(incoming))


def _portable(error: BaseException) -> BaseException:
    """Return an error that can be pickled: itself if possible."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its constructor takes
        return RuntimeError(f"{type(error).__name__}: {one_line(error)}")
    return error
