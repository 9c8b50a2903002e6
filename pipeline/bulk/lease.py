"""The lease of a run: a file by which a driver shows that it is at work, so that no second one works on the same run.

No row depends on it: two drivers would write the same files twice. It saves their time, and tells `segpipe status`
whether anyone is at work.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from pipeline import faults, storage
from pipeline.bulk.driver import LEASE, STALE_SECONDS, read_lease
from pipeline.errors import IncompleteError
from pipeline.stop import stop

RENEWED = 20.0  # seconds between two signs of life
LOOK = 2.0  # seconds between two looks at another driver's lease


@contextmanager
def lease(run: str) -> Iterator["Lease"]:
    """Hold the lease of a run; another driver's is waited for until it is stale.

    Raises:
        IncompleteError: Another driver works on the run.
    """
    held = Lease(run)
    held.acquire()
    try:
        yield held
    finally:
        held.release()


class Lease:
    """A driver's lease of a run.

    Args:
        run: Folder of the run.
    """

    def __init__(self, run: str):
        self._run = run
        self._url = storage.join(run, LEASE)
        self.owner = uuid.uuid4().hex
        self._ended = threading.Event()

    def acquire(self) -> None:
        """Take the lease, and renew it until it is released."""
        with faults.store_faults(self._url):
            other = read_lease(self._run)
            if other is not None and not _has_died(other):
                self._wait_for(other)
            self._write()
        threading.Thread(target=self._renew, daemon=True).start()

    def check(self) -> None:
        """Raise an `IncompleteError` if another driver has taken the lease, or has already returned it."""
        if reason := self._lost():
            raise IncompleteError(reason)

    def release(self) -> None:
        """Let another driver take the lease."""
        self._ended.set()
        with suppress(Exception):  # if the store fails, the lease passes on by itself
            other = read_lease(self._run)
            if other is not None and other["owner"] == self.owner:
                storage.remove(self._url)

    def _wait_for(self, other: dict[str, Any]) -> None:
        """Wait until a lease shows no new sign for `STALE_SECONDS`; the clocks of other machines are not trusted."""
        print(
            f"waiting up to {STALE_SECONDS:.0f} s for a sign of another driver of this run ({other['host']}, process "
            f"{other['pid']}): it may have died"
        )
        until = time.monotonic() + STALE_SECONDS
        while time.monotonic() < until:
            time.sleep(LOOK)
            now = read_lease(self._run)
            if now is None:
                return
            if now["sign"] != other["sign"]:
                raise IncompleteError(_taken(self._run, now))

    def _write(self) -> None:
        content = {
            "owner": self.owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _start_of(os.getpid()),
            "sign": uuid.uuid4().hex,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        storage.write_bytes(self._url, json.dumps(content).encode())

    def _lost(self) -> str:
        """Return why the lease is not this driver's any more; empty if it is."""
        other = read_lease(self._run)
        if other is None:
            return "another driver has taken the lease of this run, and has ended"
        return "" if other["owner"] == self.owner else _taken(self._run, other)

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            try:
                reason = self._lost()
                if reason and not self._ended.is_set():
                    stop(reason)
                    return
                if not self._ended.is_set():
                    self._write()
            except Exception:  # the store fails: those who write the rows will tell
                continue


def _taken(run: str, other: dict[str, Any]) -> str:
    return (
        f"another driver works on {storage.redact(run)}: process {other['pid']} on {other['host']}, last sign at "
        f"{other['time']}; wait until it ends"
    )


def _has_died(other: dict[str, Any]) -> bool:
    """Tell whether a driver ran on this machine and does not run any more."""
    return other["host"] == socket.gethostname() and _start_of(other["pid"]) != other["started"]


def _start_of(pid: int) -> str | None:
    """Return when a process of this machine has started, in the kernel's units; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return None
