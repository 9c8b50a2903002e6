"""What the tests share: a real S3 server, a real Ray head, drawn scenes, and a network trained on them."""

import os
import uuid

# Ray reads its token once per process, on import: head, drivers and command lines share this one.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
# Ray Train looks at its workers, and registers checkpoints, every 2 seconds: ten times as long as an epoch here.
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import ray
import torch

from pipeline import storage
from pipeline.demo.scenes import CLASS_FILE, write_broken, write_scenes
from tests.support.jobs import succeed, tiny_training
from tests.support.ray_head import RayHead
from tests.support.ray_head import ray_head as start_ray_head
from tests.support.swift import SwiftServer, swift_server

BUCKET = "test-bucket"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small maps: threads that wait for each other on a busy machine take most of the time."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _bytecode() -> Iterator[None]:
    """A place for bytecode where the environment forbids it: else every process of Ray's compiles PyTorch anew."""
    if not os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        yield
        return
    with TemporaryDirectory(prefix="bytecode-", ignore_cleanup_errors=True) as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        yield


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    """OpenStack Swift with its S3 API, on loopback."""
    with swift_server(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture(scope="session")
def s3(swift: SwiftServer) -> Iterator[str]:
    """The URL of a bucket; endpoint and credentials are in the environment, as users give them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in swift.environment.items():
            patch.setenv(name, value)
        swift.make_bucket(BUCKET)
        yield f"s3://{BUCKET}"


@pytest.fixture(scope="session")
def ray_head(s3: str) -> Iterator[RayHead]:
    """A Ray head with its job server; its workers inherit the S3 environment."""
    with start_ray_head(cpus=6) as head:
        yield head


@pytest.fixture(scope="module")
def ray_driver(ray_head: RayHead) -> Iterator[None]:
    """The tests' own process as a driver of the head; Ray's worker processes serve one driver after another."""
    ray.init(address=ray_head.address, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of drawn scenes: train, val and night (with broken files), and classes.yaml."""
    folder = tmp_path_factory.mktemp("scenes")
    for seed, (name, count) in enumerate({"train": 24, "val": 8, "night": 40}.items()):
        write_scenes(folder / name, count=count, seed=seed)
    write_broken(folder / "night")
    (folder / "classes.yaml").write_text(CLASS_FILE)
    return str(folder)


@pytest.fixture(scope="session")
def scenes_on_s3(scenes: str, s3: str) -> str:
    """The same scenes on S3."""
    for file in Path(scenes).rglob("*.*"):
        storage.write_bytes(f"{s3}/scenes/{file.relative_to(scenes)}", file.read_bytes())
    return f"{s3}/scenes"


@pytest.fixture(scope="session")
def trained_on_s3(scenes_on_s3: str, s3: str, ray_head: RayHead) -> str:
    """The bundle that `jobs/train.py` trained from S3 to S3 in two epochs."""
    output = f"{s3}/model"
    succeed("train", environment=ray_head.environment, **tiny_training(scenes_on_s3, output))
    return output
