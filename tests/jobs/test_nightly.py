"""Nights as schedulers start them: exit codes, last lines, limits, and what status and prune say about the runs."""

import json
import subprocess
import threading
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from PIL import Image

from pipeline import bundle, storage
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.models import configure
from tests.support.jobs import REPO, command, run_job
from tests.support.web import web_server

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A bundle of an untrained network."""
    folder = str(tmp_path_factory.mktemp("model"))
    card = Card(architecture="deeplabv3_resnet18", options={"width": 0.125}, classes=Classes(names=("a", "b", "c")))
    bundle.save_bundle(folder, configure(card.architecture, card.options).build(3), card)
    return folder


def draw(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        if name.startswith("broken"):
            (folder / name).write_bytes(b"not an image")
        else:
            Image.new("RGB", (16, 16), "red").save(folder / name)


def end_of(result: CompletedProcess) -> dict[str, Any]:
    """The last line of a job's standard output."""
    end = json.loads(result.stdout.splitlines()[-1])
    assert end["exit_code"] == result.returncode
    return end


def look(job: str, *arguments: object) -> CompletedProcess:
    """Run a job whose first argument is a place."""
    return subprocess.run([*command(job), *map(str, arguments)], capture_output=True, text=True, cwd=REPO)


def test_three_nights_with_a_cron_line(model, tmp_path, s3, ray_head):
    """From local images to an S3 server; then the status of a night, and the removal of all."""
    images, output = tmp_path / "images", f"{s3}/nights"
    options: dict[str, Any] = {"model": model, "images": images, "output": output, "since": "last"}
    options |= {"scaling.actors": 1, "max_error_rate": 0.4, "on_end.command": f"cat > {tmp_path}/end.json"}
    draw(images, "a.png", "b.png", "broken.png")
    first = run_job("segment", environment=ray_head.environment, run_id="1", **options)
    assert first.returncode == 0, first.stderr[-3000:]
    assert "no finished run of this job over these images" in first.stdout
    end = end_of(first)
    assert (end["job"], end["run_id"], end["images"], end["errors"]) == ("segment", "1", 3, 1)
    assert json.loads((tmp_path / "end.json").read_text()) == end

    draw(images, "broken-2.png")
    second = run_job("segment", environment=ray_head.environment, run_id="2", **options)
    end = end_of(second)
    assert (end["exit_code"], end["written"], end["errors"], end["removed"]) == (4, 1, 1, 0)
    assert "error: the run is complete, but 1 of 1 images failed" in second.stderr
    assert "1 images, 1 errors" in second.stdout
    assert json.loads((tmp_path / "end.json").read_text()) == end

    draw(images, "c.png")
    (images / "a.png").unlink()
    third = run_job("segment", environment=ray_head.environment, run_id="3", **options)
    end = end_of(third)
    assert (end["exit_code"], end["written"], end["errors"], end["removed"]) == (0, 1, 0, 1)

    status = json.loads(look("status", f"{output}/run_id=2", "--format", "json").stdout)
    assert (status["state"], status["errors"], status["earlier"]) == ("finished", 1, f"{output}/run_id=1")
    assert status["causes"][0]["example"].startswith("broken-2.png: ")
    pruned = look("prune", output, "--keep", "1")
    assert [line[:6] for line in pruned.stdout.splitlines()] == [*["keep  "] * 3, "0 runs", "nothin"]
    pruned = look("prune", output, "--keep", "0", "--yes")
    assert pruned.stdout.count("removed run_id=") == 3
    assert storage.list_files(output) == []


def test_a_run_of_broken_images_stops_and_the_same_command_goes_on(model, tmp_path, ray_head):
    images, runs = tmp_path / "images", tmp_path / "runs"
    draw(images, *(f"broken-{i:03d}.png" for i in range(400)), "good.png")
    options: dict[str, Any] = {"model": model, "images": images, "output": runs, "run_id": "x", "scaling.actors": 1}
    options |= {"sharding.max_images": 10}
    result = run_job("segment", environment=ray_head.environment, max_error_rate=0.5, **options)
    assert result.returncode == 4, result.stderr[-3000:]
    end = end_of(result)
    assert 100 <= end["written"] < 401
    assert end["errors"] == end["written"]
    assert "of them in decode with ImageError, such as broken-" in end["message"]
    assert result.stderr.rstrip().endswith(f"error: {end['message']}")
    assert not (runs / "run_id=x" / "manifest.json").exists()
    assert end_of(run_job("segment", environment=ray_head.environment, **options))["errors"] == 400


def test_a_deadline_stops_a_run_that_waits_for_ray(model, tmp_path, ray_head):
    """An image that is never delivered keeps the driver waiting; what was written before the deadline stays."""
    images, runs = tmp_path / "images", tmp_path / "runs"
    draw(images, "a.png", "b.png", "c.png", "d.png")
    released = threading.Event()

    def last_image(path: str) -> bytes:
        released.wait()
        return (images / "d.png").read_bytes()

    with web_server(last_image) as server:
        (images / "list.txt").write_text(f"a.png\nb.png\nc.png\n{server}/d.png\n")
        options: dict[str, Any] = {"model": model, "images": images / "list.txt", "output": runs, "run_id": "x"}
        options |= {"sharding.max_images": 1, "scaling.actors": 1}
        result = run_job("segment", environment=ray_head.environment, deadline="30s", **options)
        assert result.returncode == 3, result.stderr[-3000:]
        end = end_of(result)
        assert end["message"].startswith("stopped at the --deadline of 30 s: ")
        assert end["message"].endswith("the same command resumes the run")
        assert "Traceback" not in result.stderr
        status = json.loads(look("status", runs / "run_id=x", "--format", "json").stdout)
        assert (status["state"], status["images"]) == ("stopped", 4)
        assert status["written"] >= end["written"]
        released.set()
        assert end_of(run_job("segment", environment=ray_head.environment, **options))["written"] == 4
