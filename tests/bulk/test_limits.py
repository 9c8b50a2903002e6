"""Runs that stop by themselves: too many errors, a deadline."""

import signal
import subprocess
import sys
import threading

import pyarrow.parquet as pq
import pytest

from pipeline.bulk.config import Sharding
from pipeline.bulk.limits import check_finished, deadline
from pipeline.bulk.outcome import Outcome
from pipeline.errors import IncompleteError, TooManyErrors
from tests.support.jobs import REPO
from tests.support.nights import compute, config_of, draw, without_ray


def names(good: int, broken: int) -> list[str]:
    """Names of images, of which the good ones are planned first."""
    return [f"{i:04d}.png" for i in range(good)] + [f"broken-{i:04d}.png" for i in range(broken)]


def test_a_misconfigured_run_stops_after_100_images_with_the_cause(tmp_path, monkeypatch):
    """What it has written stays, and the same command without the limit computes the rest only."""
    draw(tmp_path / "images", *names(good=60, broken=240))
    computed = without_ray(monkeypatch)
    outcome = Outcome()
    with pytest.raises(TooManyErrors) as caught:
        compute(config_of(tmp_path, run_id="x", max_error_rate=0.3), outcome)
    message = str(caught.value)
    assert len(computed) == 34  # shards of three images; the 60 good ones come first
    assert (outcome.images, outcome.written, outcome.errors) == (300, 102, 42)
    assert "42 of 102 images failed, more than --max-error-rate 0.3 accepts" in message
    assert "42 of them in decode with ImageError, such as broken-0000.png: the file is empty." in message
    assert "\n" not in message
    assert caught.value.exit_code == 4
    computed.clear()
    assert compute(config_of(tmp_path, run_id="x")) is not None
    assert computed == list(range(34, 100))


@pytest.mark.parametrize(("limit", "stops"), [(None, False), (0.8, False), (0.79, True), (0.0, True)])
def test_a_share_equal_to_the_limit_is_accepted(tmp_path, monkeypatch, limit, stops):
    """Of the five images in each shard, four are broken."""
    for i in range(30):
        draw(tmp_path / "images" / f"{i:02d}", "good.png", *(f"broken-{k}.png" for k in range(4)))
    without_ray(monkeypatch)
    config = config_of(tmp_path, run_id="x", max_error_rate=limit, sharding=Sharding(max_images=5))
    if stops:
        with pytest.raises(TooManyErrors):
            compute(config)
    else:
        assert compute(config) is not None


def test_few_images_do_not_stop_a_run_but_are_judged_at_its_end(tmp_path, monkeypatch):
    draw(tmp_path / "images", *names(good=49, broken=50))
    without_ray(monkeypatch)
    run = compute(config_of(tmp_path, run_id="x", max_error_rate=0.1))
    assert run is not None
    check_finished(99, 50, None, run=run)
    check_finished(99, 50, 50 / 99, run=run)
    with pytest.raises(TooManyErrors, match=r"complete, but 50 of 99 images failed, more than --max-error-rate 0\.1"):
        check_finished(99, 50, 0.1, run=run)


def test_an_empty_night_has_not_too_many_errors():
    check_finished(0, 0, 0.0, run="r")


def test_a_deadline_says_what_is_left_and_the_same_command_resumes(tmp_path, monkeypatch):
    draw(tmp_path / "images", *names(good=9, broken=0))
    blocked = threading.Event()

    def block(shard: int) -> None:
        if shard == 2:
            blocked.wait()

    without_ray(monkeypatch, stop=block)
    with pytest.raises(IncompleteError) as caught:
        compute(config_of(tmp_path, run_id="x", deadline="2s"))
    assert str(caught.value) == (
        "stopped at the --deadline of 2 s: 6 of 9 images are written, 3 are left; the same command resumes the run"
    )
    assert caught.value.exit_code == 3
    computed = without_ray(monkeypatch)
    run = compute(config_of(tmp_path, run_id="x", deadline="1h"))
    assert computed == [2]
    assert pq.read_table(f"{run}/images", partitioning=None).num_rows == 9


def test_a_deadline_that_is_not_reached_leaves_no_alarm_behind():
    before = signal.getsignal(signal.SIGALRM)
    with deadline(60, lambda: "") as alarm:
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        alarm.cancel()
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert signal.getsignal(signal.SIGALRM) == before


def test_without_a_deadline_an_interrupt_stays_one():
    with pytest.raises(KeyboardInterrupt), deadline(None, lambda: ""):
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), deadline(60, lambda: ""):
        raise ZeroDivisionError


def test_a_deadline_ends_a_wait_for_ray():
    """Ray swallows any other exception of a signal handler than an interrupt."""
    program = """
import ray, sys, time
from pipeline.bulk.config import Sharding
from pipeline.bulk.limits import deadline
from pipeline.errors import IncompleteError
ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="error", log_to_driver=False)
@ray.remote
def forever():
    time.sleep(1000)
try:
    with deadline(1, lambda: "half"):
        ray.get(forever.remote())
except IncompleteError as error:
    print("STOPPED", error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPO, timeout=200)
    assert "STOPPED stopped at the --deadline of 1 s: half" in result.stdout, result.stderr[-2000:]
