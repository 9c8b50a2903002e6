"""A process imports what it uses: help needs no Ray, a bulk driver no PyTorch, a helper neither PyTorch nor DuckDB."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from pipeline import allocator, bundle
from pipeline.bulk.detection.config import DetectConfig
from pipeline.bulk.detection.run import DetectionRun
from pipeline.bulk.localization.config import LocalizeConfig
from pipeline.bulk.localization.run import LocalizationRun
from pipeline.bulk.run import run_bulk
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import SegmentationRun
from pipeline.card import Card
from pipeline.commands import COMMANDS
from pipeline.data.classes import load_classes
from pipeline.data.preprocessing import ClassifierInput
from pipeline.models import configure
from tests.support.detections import FAST_RCNN, save_detector, write_pictures
from tests.support.jobs import JOBS, REPO
from tests.support.ray_head import RayHead

HEAVY = (
    "torch",
    "torch._dynamo",
    "torchvision",
    "ray",
    "numba",
    "scipy",
    "pandas",
    "pyarrow",
    "s3fs",
    "duckdb",
    "matplotlib",
    "cv2",
    "numpy",
    "jinja2",
)


@pytest.fixture
def own_workers(ray_head: RayHead) -> Iterator[None]:
    """A driver for one test, whose workers have served no other."""
    ray.init(address=ray_head.address, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()


def loaded(code: str, *arguments: str) -> set[str]:
    """The heavy packages that a fresh process has loaded once it ran some code."""
    listed = f"json.dumps([m for m in {HEAVY!r} if m in sys.modules])"
    # A bulk job replaces sys.stdout once it has printed its last line.
    report = f"\nimport json, sys\nprint('LOADED', {listed}, file=sys.__stdout__)"
    result = subprocess.run(
        [sys.executable, "-c", code + report, *arguments], capture_output=True, text=True, cwd=REPO, check=True
    )
    return set(json.loads(result.stdout.rpartition("LOADED ")[2]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nonsense"], *([c, "--help"] for c in COMMANDS)])
def test_the_program_loads_no_heavy_package_for_help(arguments):
    code = f"""
import contextlib, runpy, sys
sys.argv = ["segpipe", *{arguments!r}]
with contextlib.suppress(SystemExit):
    runpy.run_module("pipeline", run_name="__main__")
"""
    assert loaded(code) == set()


def test_the_list_of_commands_needs_no_package_at_all():
    """Its import takes as long as Python itself."""
    code = "import sys; before = set(sys.modules); import pipeline.__main__ as m; m.overview()"
    code += "; assert not {'pydantic', 'yaml', 'asyncio'} & set(sys.modules), set(sys.modules) - before"
    assert loaded(code) == set()


@pytest.mark.parametrize("job", JOBS)
def test_help_loads_no_heavy_package(job):
    code = f"""
import contextlib, runpy, sys
sys.argv = ["jobs/{job}.py", "--help"]
with contextlib.suppress(SystemExit):
    runpy.run_path("jobs/{job}.py", run_name="__main__")
"""
    assert loaded(code) == set()


def test_a_missing_bundle_is_refused_without_ray_and_pytorch(tmp_path):
    code = f"""
import contextlib, sys
sys.argv = ["segment.py", "--model", "{tmp_path}/no", "--images", "{tmp_path}", "--output", "{tmp_path}/runs"]
import runpy
with contextlib.suppress(SystemExit):
    runpy.run_path("jobs/segment.py", run_name="__main__")
"""
    assert loaded(code).isdisjoint({"torch", "ray", "numba", "scipy", "pandas", "duckdb", "matplotlib"})


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("pipeline.crf.params", set()),
        ("pipeline.data.images", {"numpy"}),
        ("pipeline.metrics.segmentation", {"numpy"}),
        ("pipeline.metrics.ranking", {"numpy"}),
        ("pipeline.cam.activation", {"numpy"}),
        ("pipeline.cam.boxes", {"numpy", "scipy"}),
        ("pipeline.crf.score_map", {"numpy", "numba", "scipy"}),
        ("pipeline.data.proposals", {"numpy"}),
        ("pipeline.bulk.detection.tables", {"numpy", "pyarrow"}),
        ("pipeline.bulk.detection.truth", {"numpy", "pyarrow"}),
        ("pipeline.bulk.plan", {"numpy", "pyarrow"}),
        ("pipeline.bulk.write", {"numpy", "pyarrow"}),
        ("pipeline.bulk.status", {"numpy", "pyarrow"}),
        ("pipeline.bulk.prune", {"numpy", "pyarrow"}),
        ("pipeline.bulk.finish", {"numpy", "pyarrow"}),
        ("pipeline.bulk.rebuild", {"numpy", "pyarrow", "jinja2"}),
        ("pipeline.bulk.comparison.pair", {"numpy", "pyarrow", "jinja2"}),
        ("pipeline.report.blocks", set()),
        ("pipeline.training.examples", {"numpy", "pyarrow", "ray"}),
        ("pipeline.training.detection.examples", {"numpy", "pyarrow", "ray"}),
        ("pipeline.training.segmentation.crops", {"numpy", "pyarrow", "ray", "scipy"}),
    ],
)
def test_a_module_loads_what_it_needs(module, allowed):
    assert loaded(f"import {module}") <= allowed


@pytest.mark.ray
@pytest.mark.parametrize("crf", [False, True])
def test_the_processes_of_a_segmentation_run(crf, scenes, tmp_path, own_workers):
    """On a real Ray: the run's own stages write down what their processes have loaded."""
    classes = load_classes(f"{scenes}/classes.yaml")
    card = Card(architecture="deeplabv3_resnet18", options={"width": 0.125}, classes=classes)
    card = bundle.save_bundle(
        str(tmp_path / "model"), configure(card.architecture, card.options).build(len(classes)), card
    )
    images = f"{scenes}/val/images"
    config = SegmentConfig(model=str(tmp_path / "model"), images=images, output=str(tmp_path / "runs"), crf=crf)
    run_bulk(recording(SegmentationRun, tmp_path)(config, card, classes))
    helper = modules_of("helper", tmp_path)
    assert helper.isdisjoint({"torch", "torchvision", "s3fs", "duckdb", "matplotlib"})
    assert crf == ("numba" in helper)
    predictor = modules_of("predictor", tmp_path)
    assert "torch" in predictor
    assert predictor.isdisjoint({"torch._dynamo", "torchvision", "s3fs", "duckdb", "matplotlib"})
    assert settings_of_memory("predictor", tmp_path) == allocator.keep_freed(allocator.BATCH_BYTES)
    # The helper computes the CRF, or else it decodes and encodes.
    kept = allocator.BATCH_BYTES if crf else allocator.PICTURE_BYTES
    assert settings_of_memory("helper", tmp_path) == allocator.keep_freed(kept)


@pytest.mark.ray
def test_the_processes_of_a_localization_run(scenes, tmp_path, own_workers):
    classes = load_classes(f"{scenes}/classes.yaml")
    card = Card(
        architecture="resnet18_cam",
        options={"width": 0.125},
        classes=classes,
        classifier=ClassifierInput(size=(64, 64), multi_label=False),
    )
    card = bundle.save_bundle(
        str(tmp_path / "model"), configure(card.architecture, card.options).build(len(classes)), card
    )
    config = LocalizeConfig(model=str(tmp_path / "model"), images=f"{scenes}/val/images", output=str(tmp_path / "runs"))
    run_bulk(recording(LocalizationRun, tmp_path)(config, card))
    assert modules_of("helper", tmp_path).isdisjoint({"torch", "torchvision", "numba", "duckdb", "matplotlib"})


@pytest.mark.ray
def test_the_processes_of_a_detection_run(tmp_path, own_workers):
    """The helper, which computes the proposals, loads OpenCV and no PyTorch; the network's process loads no OpenCV."""
    write_pictures(tmp_path, count=3)
    card = save_detector(str(tmp_path / "model"), **FAST_RCNN)
    config = DetectConfig(
        model=str(tmp_path / "model"),
        images=str(tmp_path / "images"),
        truth=str(tmp_path / "boxes.csv"),
        output=str(tmp_path / "runs"),
    )
    run_bulk(recording(DetectionRun, tmp_path)(config, card))
    helper = modules_of("helper", tmp_path)
    assert "cv2" in helper
    assert helper.isdisjoint({"torch", "torchvision", "numba", "duckdb", "matplotlib"})
    predictor = modules_of("predictor", tmp_path)
    assert "torch" in predictor
    assert predictor.isdisjoint({"cv2", "duckdb", "matplotlib"})


@pytest.mark.ray
def test_the_driver_of_a_scored_detection_run_loads_no_pytorch(tmp_path, ray_head):
    """Although it derives the scores and draws the page."""
    write_pictures(tmp_path, count=3)
    save_detector(str(tmp_path / "model"), **FAST_RCNN)
    code = f"""
import contextlib, os, runpy, sys
os.environ.update({ray_head.environment!r})
sys.argv = ["detect.py", "--model", "{tmp_path}/model", "--images", "{tmp_path}/images",
            "--truth", "{tmp_path}/boxes.csv", "--output", "{tmp_path}/runs"]
with contextlib.suppress(SystemExit):
    runpy.run_path("jobs/detect.py", run_name="__main__")
"""
    packages = loaded(code)
    assert list(Path(tmp_path).glob("runs/*/manifest.json"))
    assert packages.isdisjoint({"torch", "torchvision", "numba", "scipy", "duckdb"})


@pytest.mark.ray
def test_the_driver_of_a_bulk_run_loads_no_pytorch(trained_on_s3, scenes_on_s3, tmp_path, ray_head):
    code = f"""
import contextlib, os, runpy, sys
os.environ.update({ray_head.environment!r})
sys.argv = ["segment.py", "--model", "{trained_on_s3}", "--images", "{scenes_on_s3}/val/images",
            "--output", "{tmp_path}/runs"]
with contextlib.suppress(SystemExit):
    runpy.run_path("jobs/segment.py", run_name="__main__")
"""
    packages = loaded(code)
    assert list(Path(tmp_path).glob("runs/*/manifest.json"))
    assert packages.isdisjoint({"torch", "torchvision", "numba", "scipy", "duckdb", "matplotlib"})


def recording(kind: type, folder: Path) -> type:
    """A kind of run whose stages write down their process's heavy packages and variables; pickled by value."""

    def record(stage: str) -> None:
        packages = [m for m in HEAVY if m in sys.modules]
        (folder / f"{stage}.json").write_text(json.dumps({"packages": packages, "environment": dict(os.environ)}))

    class Recording(kind):
        def load_predictor(self, images):
            predictor = super().load_predictor(images)
            record("predictor")
            return predictor

        def row(self, fetched, result):
            row = super().row(fetched, result)
            record("helper")
            return row

    return Recording


def modules_of(stage: str, folder: Path) -> set[str]:
    """What `recording` wrote down for a stage."""
    return set(json.loads((folder / f"{stage}.json").read_text())["packages"])


def settings_of_memory(stage: str, folder: Path) -> dict[str, str]:
    """The settings of `allocator.keep_freed` with which the process of a stage began."""
    environment = json.loads((folder / f"{stage}.json").read_text())["environment"]
    return {name: environment[name] for name in allocator.keep_freed(0) if name in environment}
