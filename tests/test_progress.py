"""Progress is a bar on a terminal, and JSON lines at intervals elsewhere."""

import contextlib
import fcntl
import itertools
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import pytest

from pipeline.progress import Progress, waiting
from tests.support.jobs import REPO


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time in seconds, which the test moves."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_lines_come_at_intervals_and_at_the_end(clock, capsys):
    with Progress(total=100) as shown:
        for second in range(1, 26):
            clock[0] += 1
            shown.update(2, failed=second == 3)
        during = lines(capsys)
    assert [line["done"] for line in during] == [20, 40]
    assert during[0] == {"done": 20, "total": 100, "failed": 1, "images_per_second": 2.0, "seconds_left": 40}
    assert lines(capsys) == [{"done": 50, "total": 100, "failed": 1, "images_per_second": 2.0, "seconds_left": 25}]


def test_the_rate_leaves_out_the_time_before_the_first_images(clock, capsys):
    """The model is loaded for 60 s; then an image takes a second."""
    with Progress(total=50, waiting_for="the model") as shown:
        clock[0] += 60
        shown.update(10)
        clock[0] += 10
        shown.update(10)
    first, second, last = lines(capsys)[:3]
    assert first == {"waiting_for": "the model"}
    assert (second["done"], second["images_per_second"], second["seconds_left"]) == (10, None, None)
    assert (last["images_per_second"], last["seconds_left"]) == (1.0, 30)


def test_units_that_come_all_at_once_have_the_speed_of_the_whole_time(clock, capsys):
    """A small run: all of its shards are reported within a moment."""
    with Progress(total=20) as shown:
        clock[0] += 10
        shown.update(10)
        clock[0] += 0.001
        shown.update(10)
    assert lines(capsys)[-1]["images_per_second"] == 2.0


def test_units_are_named_and_undone_images_counted(clock, capsys):
    with Progress(total=None, unit="steps", title="scoring") as shown:
        clock[0] += 4
        shown.update(8)
        shown.update(undone=3)
    assert lines(capsys) == [
        {
            "stage": "scoring",
            "done": 8,
            "total": None,
            "failed": 0,
            "undone": 3,
            "steps_per_second": 2.0,
            "seconds_left": None,
        }
    ]


def test_short_work_and_interrupted_work_have_no_last_line(clock, capsys):
    with Progress(total=3, title="listing", delay=2) as shown:
        clock[0] += 1
        shown.update(3)
    with contextlib.suppress(KeyError), Progress(total=3) as shown:
        shown.update(1)
        raise KeyError
    assert lines(capsys) == []


def test_what_is_waited_for_is_a_line_each(capsys):
    with waiting("the list"), waiting("Ray to start"):
        pass
    assert lines(capsys) == [{"waiting_for": "the list"}, {"waiting_for": "Ray to start"}]


TERMINAL = """
import time
from pipeline.progress import Progress, waiting
with waiting("the list"):
    with waiting("Ray to start"):
        time.sleep(1.5)
    time.sleep(1.5)
with Progress(total=4, waiting_for="the model") as shown:
    time.sleep(1.5)
    shown.write("a note")
    for i in range(4):
        shown.update(1, failed=i == 0)
"""


def test_a_terminal_shows_what_is_waited_for_and_a_bar():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", TERMINAL], stderr=theirs, cwd=REPO)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux reports the end of a terminal so
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode()
    found = re.findall(r"waiting for ([\w ]+) …", text)
    waits = [what for what, following in itertools.pairwise([*found, ""]) if what != following]
    if waits[0] == "the list":  # painted in the moment before the inner wait began
        waits = waits[1:]
    assert waits == ["Ray to start", "the list", "the model"]
    assert "a note" in text
    assert re.search(r"100%.*4/4 .*failed=1", text)
    assert "{" not in text
