"""Fixtures that the tests share: a real S3 server, a real Ray head, drawn scenes, and a network trained on them.

With `pytest -n 2` the controlling process starts the servers once, and the worker processes share them.
"""

import fcntl
import json
import os
import uuid

# Ray reads its token once per process, on import: head, drivers, command lines and test workers share this one.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", uuid.uuid4().hex)
# Ray Train looks at its workers, and registers checkpoints, every 2 seconds: ten times as long as an epoch here.
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from benchmarks.swift import SwiftServer, swift_server
from pipeline import retry
from tests.support.ray_head import RayHead
from tests.support.ray_head import ray_head as start_ray_head

BUCKET = "test-bucket"
# Logical CPUs of the head: enough for the runs of two tests at a time, which would otherwise wait for each other.
HEAD_CPUS = 6
SERVERS = "TEST_SERVERS_OF_SEGPIPE"  # environment variable with the servers that the controlling process started
_STARTED = pytest.StashKey[ExitStack]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a Ray head or an S3 server, by their fixtures, and run their files first.

    They wait for processes to start: beside them, another worker process of `pytest -n` computes.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & {"ray_head", "ray_driver"}:
            item.add_marker("ray")
        if fixtures & {"swift", "s3"}:
            item.add_marker("s3")
    waiting = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in waiting)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the servers for all worker processes of `pytest -n`, unless markers select tests."""
    config = session.config
    controls_workers = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if not controls_workers or config.option.markexpr:
        return
    stack = config.stash[_STARTED] = ExitStack()
    swift = stack.enter_context(swift_server(Path(stack.enter_context(TemporaryDirectory(prefix="swift-")))))
    swift.make_bucket(BUCKET)
    os.environ.update(swift.environment)
    head = stack.enter_context(start_ray_head(cpus=HEAD_CPUS))
    os.environ[SERVERS] = json.dumps({"swift": asdict(swift), "ray_head": asdict(head)})


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the servers that `pytest_sessionstart` started."""
    if _STARTED in session.config.stash:
        session.config.stash[_STARTED].close()


@pytest.fixture(autouse=True)
def beginner_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test wait for stores as a job does that begins: a run in this process leaves it more patient."""
    monkeypatch.setattr(retry, "_patience", replace(retry._patience, seconds=10.0, refusals=False))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Let PyTorch compute on one thread: on small maps, threads that wait for each other take most of the time."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    """OpenStack Swift with its S3 API, on loopback."""
    if SERVERS in os.environ:
        yield SwiftServer(**json.loads(os.environ[SERVERS])["swift"])
        return
    with swift_server(tmp_path_factory.mktemp("swift")) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture(scope="session")
def s3(swift: SwiftServer) -> Iterator[str]:
    """The URL of a bucket; endpoint and credentials are in the environment, as users give them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in swift.environment.items():
            patch.setenv(name, value)
        yield f"s3://{BUCKET}"


@pytest.fixture(scope="session")
def ray_head(s3: str) -> Iterator[RayHead]:
    """A Ray head with its job server; its workers inherit the S3 environment."""
    if SERVERS in os.environ:
        yield RayHead(**json.loads(os.environ[SERVERS])["ray_head"])
        return
    with start_ray_head(cpus=HEAD_CPUS) as head:
        yield head


@pytest.fixture(scope="module")
def ray_driver(ray_head: RayHead) -> Iterator[None]:
    """The tests' own process as a driver of the head; Ray's worker processes serve one driver after another."""
    import ray

    ray.init(address=ray_head.address, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of drawn scenes: train, val and night (with broken files), and classes.yaml."""
    from pipeline.demo.scenes import CLASS_FILE, write_broken, write_scenes

    folder = tmp_path_factory.mktemp("scenes")
    for seed, (name, count) in enumerate({"train": 24, "val": 8, "night": 40}.items()):
        write_scenes(folder / name, count=count, seed=seed)
    write_broken(folder / "night")
    (folder / "classes.yaml").write_text(CLASS_FILE)
    return str(folder)


@pytest.fixture(scope="session")
def scenes_on_s3(scenes: str, s3: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same scenes on S3."""
    from pipeline import storage

    with _one_process_at_a_time("scenes", tmp_path_factory):
        if not storage.exists(f"{s3}/scenes"):
            for file in Path(scenes).rglob("*.*"):
                storage.write_bytes(f"{s3}/scenes/{file.relative_to(scenes)}", file.read_bytes())
    return f"{s3}/scenes"


@pytest.fixture(scope="session")
def trained_on_s3(scenes_on_s3: str, s3: str, ray_head: RayHead, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bundle that `jobs/train.py` trained from S3 to S3 in two epochs."""
    from pipeline import storage
    from tests.support.jobs import succeed, tiny_training

    output = f"{s3}/model"
    with _one_process_at_a_time("model", tmp_path_factory):
        if not storage.exists(f"{output}/report.html"):
            succeed("train", environment=ray_head.environment, **tiny_training(scenes_on_s3, output))
    return output


@contextmanager
def _one_process_at_a_time(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the other worker processes of `pytest -n` out of the block."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
