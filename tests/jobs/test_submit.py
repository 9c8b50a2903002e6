"""The jobs as users start them: executables, `ray job submit`, exit codes, messages that scripts can read."""

import itertools
import json
import os
import re
import subprocess
import time
from pathlib import Path

import duckdb
import numpy as np
import pytest
from PIL import Image

from tests.support.jobs import JOBS, REPO, run_job, succeed
from tests.support.ray_head import BIN, RayHead

pytestmark = pytest.mark.timeout(600)  # whichever test comes first pays for the servers and the trained bundle


def submit(head: RayHead, *arguments: str) -> str:
    """Run `ray job submit …`, wait for the job, and return its output."""
    command = [str(BIN / "ray"), "job", "submit", "--address", head.jobs, *arguments]
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    for _ in range(30):
        result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=REPO)
        if "No available agent" not in result.stderr:  # the head's job agent is still starting
            break
        time.sleep(2)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def test_submitted_with_its_working_directory(trained_on_s3, scenes_on_s3, tmp_path, ray_head):
    """The command is `ray job submit --working-dir . -- python jobs/segment.py …`."""
    options = ["--model", trained_on_s3, "--images", f"{scenes_on_s3}/val/images", "--output", str(tmp_path / "runs")]
    text = submit(ray_head, "--working-dir", ".", "--", "python", "jobs/segment.py", *options)
    assert "8 images, 0 errors" in text
    count = duckdb.connect().execute(
        f"SELECT count(*), sum(px_sky + px_grass + px_road + px_house + px_tree + px_car - width * height) "
        f"FROM read_parquet('{tmp_path}/runs/*/images/*.parquet', hive_partitioning=true) WHERE status = 'ok'"
    )
    assert count.fetchall() == [(8, 0)]


def test_submitted_as_a_script_where_the_head_runs_in_the_repository(ray_head):
    assert "bundle: the output folder of the job" in submit(ray_head, "--", "jobs/segment.py", "--help")


@pytest.mark.parametrize("job", JOBS)
def test_a_job_runs_as_an_executable_and_explains_its_options(job):
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "1000"}
    result = subprocess.run([REPO / "jobs" / f"{job}.py", "--help"], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    lines = [*result.stdout.splitlines(), ""]
    options = [(line, following) for line, following in itertools.pairwise(lines) if line.startswith("  --")]
    assert options
    for line, following in options:  # the explanation stands behind the option, or on the next line
        explained_here = re.match(r"  --\S+(, --\S+)?( \S+)?  +\S", line)
        assert explained_here or re.match(r" {12,}\S", following), line


@pytest.mark.parametrize("job", JOBS)
def test_an_unknown_option_is_one_line_and_exit_code_2(job):
    result = run_job(job, qqq="x")
    assert (result.returncode, result.stderr.strip()) == (2, "error: unknown option --qqq; see --help")


def test_the_demo_goes_all_the_way(tmp_path, ray_head):
    text = succeed("demo", environment=ray_head.environment, output=tmp_path / "demo", epochs=1)
    assert "200 of 205 images scored, 5 errors" in text
    assert "broken_empty.jpg" in text  # the answer to a query
    assert len(list(tmp_path.glob("demo/runs/*/report.html"))) == 1


def test_validate_finds_nothing_wrong_with_the_scenes(scenes, tmp_path, ray_head):
    """It also draws crops of them, which differ between recipes."""
    options: dict[str, object] = {name: f"{scenes}/train/{name}" for name in ("images", "labels")}
    options["classes"] = f"{scenes}/classes.yaml"
    sheets = []
    for name, recipe in (("one", "frrn_a"), ("two", "pspnet")):
        options |= {"preview": tmp_path / f"{name}.png", "recipe": recipe}
        result = run_job("validate", environment=ray_head.environment, **options)
        assert result.returncode == 0
        assert "24 pairs of image and label: no problems" in result.stdout
        sheets.append(np.asarray(Image.open(tmp_path / f"{name}.png")))
    assert sheets[0].shape == sheets[1].shape
    assert sheets[0].shape[0] > 12 * 240
    assert (sheets[0] != sheets[1]).any()
    options |= {"augmentation__crop": "64,64"}  # precedes the recipe's
    assert run_job("validate", environment=ray_head.environment, **options).returncode == 0
    sheets.append(np.asarray(Image.open(tmp_path / "two.png")))
    assert sheets[2].shape != sheets[1].shape or (sheets[2] != sheets[1]).any()
    del options["preview"]
    refused = run_job("validate", environment=ray_head.environment, **options)
    assert "--recipe says how --preview draws crops" in refused.stderr


def test_validate_reports_each_problem_by_kind_and_file(scenes, tmp_path, ray_head):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        for file in Path(scenes, "val", name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "labels" / "scene_00000.png").unlink()
    (tmp_path / "images" / "scene_00001.jpg").unlink()
    Image.new("L", (5, 5), 3).save(tmp_path / "labels" / "scene_00002.png")
    (tmp_path / "images" / "scene_00003.png").write_bytes(b"broken")
    (tmp_path / "labels" / "scene_00004.png").write_bytes(b"")
    with Image.open(tmp_path / "labels" / "scene_00005.png") as label:
        Image.new("L", label.size, 77).save(tmp_path / "labels" / "scene_00005.png")
    with Image.open(tmp_path / "labels" / "scene_00006.png") as label:
        Image.new("L", label.size, 255).save(tmp_path / "labels" / "scene_00006.png")
    options = {
        "images": tmp_path / "images",
        "labels": tmp_path / "labels",
        "classes": f"{scenes}/classes.yaml",
        "report": tmp_path / "report.json",
    }
    result = run_job("validate", environment=ray_head.environment, **options)
    assert result.returncode == 1
    found = {
        (p["kind"], Path(p["where"]).stem): p["what"]
        for p in json.loads((tmp_path / "report.json").read_text())["problems"]
    }
    assert set(found) == {
        ("image_without_label", "scene_00000"),
        ("label_without_image", "scene_00001"),
        ("size_mismatch", "scene_00002"),
        ("unreadable_image", "scene_00003"),
        ("unreadable_label", "scene_00004"),
        ("value_outside_classes", "scene_00005"),
        ("nothing_labelled", "scene_00006"),
    }
    assert found["value_outside_classes", "scene_00005"].startswith("77 (")
    assert "1 size_mismatch" in result.stdout.splitlines()[-1]


def test_validate_explains_binary_masks_under_ignore_index_255(tmp_path, ray_head):
    """The line that it prints for the class file makes them valid."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 4)).save(tmp_path / "images" / f"{i}.jpg")
        Image.fromarray(np.repeat([[0, 255]], 4, axis=0).astype(np.uint8)).resize((8, 4), 0).save(
            tmp_path / "labels" / f"{i}.png"
        )
    classes = tmp_path / "classes.yaml"
    classes.write_text("names: [bg, fg]\nignore_index: 255\n")
    options = {"images": tmp_path / "images", "labels": tmp_path / "labels", "classes": classes}
    result = run_job("validate", environment=ray_head.environment, **options)
    assert result.returncode == 1
    (line,) = [line.strip() for line in result.stdout.splitlines() if line.strip().startswith("values:")]
    classes.write_text(classes.read_text() + line)
    result = run_job("validate", environment=ray_head.environment, **options)
    assert (result.returncode, "no problems" in result.stdout) == (0, True)
