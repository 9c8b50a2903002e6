"""A run has one driver at a time, and a dead one's lease passes on by itself."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.bulk import lease as leases
from pipeline.bulk.driver import LEASE, read_lease
from pipeline.bulk.lease import Lease, lease
from pipeline.errors import IncompleteError

OTHER = {"owner": "other", "host": "elsewhere", "pid": 7, "started": "1", "sign": "1", "time": "2026-01-01T00:00:00"}


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEWED", 0.1)
    monkeypatch.setattr(leases, "STALE_SECONDS", 60.0)
    monkeypatch.setattr(leases, "LOOK", 0.05)


def leave(run: Path, **changes: object) -> None:
    """Leave the lease of another driver."""
    (run / "_run").mkdir(exist_ok=True)
    (run / LEASE).write_text(json.dumps(OTHER | changes))


def test_a_lease_is_renewed_and_released(tmp_path):
    with lease(str(tmp_path)) as held:
        first = read_lease(str(tmp_path))
        assert first is not None
        assert first["owner"] == held.owner
        deadline = time.monotonic() + 30
        while read_lease(str(tmp_path)) == first and time.monotonic() < deadline:
            time.sleep(0.05)
        renewed = read_lease(str(tmp_path))
        assert renewed is not None
        assert renewed["sign"] != first["sign"]
    assert read_lease(str(tmp_path)) is None


def test_a_second_driver_is_refused_while_the_first_is_at_work(tmp_path):
    with lease(str(tmp_path)):
        with pytest.raises(IncompleteError, match="another driver works on"), lease(str(tmp_path)):
            pass
        assert read_lease(str(tmp_path)) is not None


def test_a_lease_without_a_sign_passes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(leases, "STALE_SECONDS", 1.0)
    leave(tmp_path)
    started = time.monotonic()
    with lease(str(tmp_path)):
        assert time.monotonic() - started >= leases.STALE_SECONDS
    assert "(elsewhere, process 7)" in capsys.readouterr().out


def test_the_lease_of_a_process_of_this_machine_that_is_gone_passes_on_at_once(tmp_path, capsys):
    code = "import sys; from pipeline.bulk.lease import Lease; Lease(sys.argv[1]).acquire()"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert read_lease(str(tmp_path)) is not None
    with lease(str(tmp_path)):
        pass
    assert "waiting" not in capsys.readouterr().out


def test_a_driver_that_has_lost_its_lease_does_not_finish(tmp_path, monkeypatch):
    """A driver may be stopped for minutes, and wake up when another one works on the run."""
    told = threading.Event()
    monkeypatch.setattr(leases, "stop", lambda reason: told.set())
    with lease(str(tmp_path)) as held:
        held.check()
        while not told.wait(0.05):  # again, if the driver has just looked and writes its sign
            leave(tmp_path)
        with pytest.raises(IncompleteError, match="process 7 on elsewhere"):
            held.check()
    assert read_lease(str(tmp_path)) == OTHER


def test_a_driver_does_not_take_its_lease_again_when_another_one_has_returned_it(tmp_path, monkeypatch):
    """A driver that was stopped wakes up after another one has finished the run."""
    told = threading.Event()
    monkeypatch.setattr(leases, "stop", lambda reason: told.set())
    with lease(str(tmp_path)) as held:
        while not told.wait(0.05):
            (tmp_path / LEASE).unlink(missing_ok=True)
        with pytest.raises(IncompleteError, match="and has ended"):
            held.check()
    assert read_lease(str(tmp_path)) is None


def test_lease_takes_no_lease_that_is_renewed_while_it_waits(tmp_path):
    leave(tmp_path)
    renewing = threading.Timer(0.3, leave, [tmp_path], {"sign": "2"})
    renewing.start()
    with pytest.raises(IncompleteError, match="another driver"):
        Lease(str(tmp_path)).acquire()
    renewing.join()
