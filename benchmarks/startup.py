"""How long jobs take until they compute: phases of segment, localize and train beside bare starts of Ray and PyTorch.

python -m benchmarks.startup [--repository DIR] [--rounds 3]

Every figure is the median over the rounds of seconds since the command was started, as seen from outside: a phase ends
when its first file appears on storage. `--repository` measures the jobs of another checkout, for a comparison in turns.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from pydantic import BaseModel, Field

from pipeline import cli

HERE = Path(__file__).resolve().parents[1]
BARE = {
    "import torch": "import torch",
    "import ray.data": "import ray.data",
    "ray.init()": "import ray; ray.init(address='local', include_dashboard=False, logging_level='error')",
}


class StartupConfig(BaseModel):
    """The options of `python -m benchmarks.startup`."""

    repository: Path = Field(default=HERE, description="checkout whose jobs are measured")
    rounds: int = Field(default=3, ge=1, description="rounds; the median is printed")
    images: int = Field(default=200, ge=16, description="drawn images that the bulk runs process")


def main(argv: list[str]) -> None:
    """Prepare bundles and images, then measure each command in turns, and print a table."""
    config = cli.parse(StartupConfig, argv, description=__doc__ or "")
    environment = os.environ | {"PYTHONPATH": str(config.repository)}
    folder = Path(tempfile.mkdtemp(prefix="segpipe-startup-"))
    try:
        commands = _prepare(folder, config)
        seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        for _ in range(config.rounds):
            for name, code in BARE.items():
                seconds[name, "end"].append(_seconds([sys.executable, "-c", code], environment))
            for name, (command, phases, output) in commands.items():
                for phase, value in _phases(command, phases, output, environment, folder).items():
                    seconds[name, phase].append(value)
        width = max(len(f"{name}: {phase}") for name, phase in seconds)
        for (name, phase), values in seconds.items():
            print(f"{name + ': ' + phase:<{width}}  {statistics.median(values):6.2f} s")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


Command = tuple[list[str], dict[str, str], Path]  # command, glob of the file that ends each phase, output


def _prepare(folder: Path, config: StartupConfig) -> dict[str, Command]:
    """Draw images, write two untrained bundles, and return the commands."""
    from pipeline.bundle import save_bundle
    from pipeline.card import Card
    from pipeline.data.classes import load_classes
    from pipeline.data.preprocessing import ClassifierInput
    from pipeline.demo.scenes import CLASS_FILE, write_scenes
    from pipeline.models import configure

    write_scenes(folder / "scenes", count=config.images, seed=0)
    (folder / "empty").mkdir()
    classes_file = folder / "classes.yaml"
    classes_file.write_text(CLASS_FILE)
    classes = load_classes(str(classes_file))
    inputs = {"deeplabv3_resnet18": None, "resnet18_cam": ClassifierInput(size=(96, 96), multi_label=False)}
    for name, classifier in inputs.items():
        card = Card(architecture=name, options={"width": 0.25}, classes=classes, classifier=classifier)
        save_bundle(str(folder / name), configure(name, card.options).build(len(classes)), card)
    images = folder / "scenes" / "images"
    splits = [f"--{name}.{part}={folder}/scenes/{part}" for name in ("train", "val") for part in ("images", "labels")]

    def bulk(job: str, model: str, images: Path, *options: str) -> list[str]:
        script = str(config.repository / "jobs" / f"{job}.py")
        places = ["--model", str(folder / model), "--images", str(images), "--output", str(folder / "output")]
        return [sys.executable, script, *places, *options]

    rows = {"plan": "*/_run/plan.parquet", "first row": "*/**/part-*"}
    train = [sys.executable, str(config.repository / "jobs" / "train.py"), "--model", "deeplabv3_resnet18", *splits]
    train += ["--model-options", "width=0.125", "--classes", str(classes_file), "--output", str(folder / "output")]
    train += ["--epochs", "1", "--epoch-samples", "16", "--augmentation.crop", "64,64"]
    output = folder / "output"
    return {
        "segment --help": ([sys.executable, str(config.repository / "jobs" / "segment.py"), "--help"], {}, output),
        "segment, mistyped option": (bulk("segment", "deeplabv3_resnet18", images, "--imagse", "x"), {}, output),
        "segment, missing bundle": (bulk("segment", "nowhere", images), {}, output),
        "segment, empty folder": (bulk("segment", "deeplabv3_resnet18", folder / "empty"), {}, output),
        "segment": (bulk("segment", "deeplabv3_resnet18", images), rows, output),
        "segment --crf": (bulk("segment", "deeplabv3_resnet18", images, "--crf"), rows, output),
        "localize": (bulk("localize", "resnet18_cam", images), rows, output),
        "train": (train, {"checked": "training.json", "first epoch": "metrics.jsonl"}, output),
    }


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, env=environment, capture_output=True, check=True)
    return time.perf_counter() - start


def _phases(
    command: list[str], phases: dict[str, str], output: Path, environment: dict[str, str], folder: Path
) -> dict[str, float]:
    """Run a command; return the seconds until the file of each phase appeared, and until it ended."""
    shutil.rmtree(output, ignore_errors=True)
    found: dict[str, float] = {}
    start = time.perf_counter()
    # Outside of any checkout: its `pipeline` would be imported in place of the measured one.
    process = subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None:
        for phase, pattern in phases.items():
            if phase not in found and any(output.glob(pattern)):
                found[phase] = time.perf_counter() - start
        time.sleep(0.02)
    return found | {"end": time.perf_counter() - start}


if __name__ == "__main__":
    cli.run(main)
