"""Secrets in every place where users put them: nothing that a job prints or writes holds them."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from s3fs import S3FileSystem

from pipeline import cli
from pipeline.bulk.plan import read_plan
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import segment as segment_here
from pipeline.bundle import save_bundle
from pipeline.card import Card
from pipeline.commands import segment, train
from pipeline.data.classes import Classes
from pipeline.errors import IncompleteError, UserError
from tests.support.jobs import command
from tests.support.networks import narrow
from tests.support.runs import rows_of
from tests.support.web import web_server

pytestmark = pytest.mark.timeout(600)

CANARY = "cAnAry7s3cr3t"
CREDENTIALS = [
    f"s3://AKIAEXAMPLE:{CANARY}@bucket/in",
    f"s3://AKIA:pass/{CANARY}@bucket/in",
    f"https://u:{CANARY}@host/in",
]
SIGNED = f"https://bucket.s3.amazonaws.com/a.jpg?X-Amz-Credential=AKIA&X-Amz-Signature={CANARY}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("bundle"))
    card = Card(architecture="unet", options={"width": 0.125}, classes=Classes(names=("a", "b")))
    save_bundle(url, narrow("unet", 2), card)
    return url


@pytest.fixture
def options(model: str, tmp_path: Path) -> dict[str, Any]:
    """Options of a run over one image, which differ from test to test."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    return {"model": model, "images": str(tmp_path / "images"), "output": str(tmp_path / "runs")}


def assert_no_canary(folder: Path, *texts: str) -> None:
    """Look for the canary in texts, and in all files below a folder, also in compressed columns of Parquet files."""
    assert all(CANARY not in text for text in texts), texts
    for path in folder.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path
            if path.suffix == ".parquet":
                assert CANARY not in str(pq.ParquetFile(path).read().to_pylist()), path


@pytest.fixture
def fresh_clients() -> Iterator[None]:
    """Clients of S3 that this test alone uses: they keep the settings with which they were made."""
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


def refused(
    main: Any,
    argv: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int = UserError.exit_code,
) -> str:
    """Run a job in this process, which must refuse its options, and return all that it prints."""
    monkeypatch.setattr(sys, "argv", ["job.py", *argv])
    with pytest.raises(SystemExit) as exit_:
        cli.run(main)
    assert exit_.value.code == code
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if line]
    assert line.startswith("error: ")
    return printed.out + printed.err


@pytest.mark.parametrize("url", CREDENTIALS)
@pytest.mark.parametrize("option", ["model", "images", "output", "labels", "classes", "since", "retry_errors"])
def test_credentials_in_an_option(option, url, options, tmp_path, monkeypatch, capsys):
    argv = command("segment", **options | {option: url})[2:]
    printed = refused(segment.main, argv, monkeypatch, capsys)
    assert (
        f"--{option.replace('_', '-')}: a URL must not hold a key or password; give them in the environment" in printed
    )
    assert_no_canary(tmp_path / "runs", printed)


def test_credentials_in_an_environment_variable_or_a_configuration_file(options, tmp_path, monkeypatch, capsys):
    argv = command("segment", model=options["model"], output=options["output"])[2:]
    (tmp_path / "job.yaml").write_text(f"images: {CREDENTIALS[0]}\n")
    printed = refused(segment.main, [*argv, "--config", str(tmp_path / "job.yaml")], monkeypatch, capsys)
    monkeypatch.setenv("SEGPIPE_IMAGES", CREDENTIALS[0])
    printed += refused(segment.main, argv, monkeypatch, capsys)
    assert printed.count("--images: a URL must not hold a key or password") == 2
    monkeypatch.delenv("SEGPIPE_IMAGES")
    printed += refused(segment.main, [*argv, "--config", CREDENTIALS[0]], monkeypatch, capsys)
    printed += refused(segment.main, [*argv, "--imagez", CREDENTIALS[0]], monkeypatch, capsys)
    printed += refused(segment.main, [*argv, CREDENTIALS[0]], monkeypatch, capsys)
    printed += refused(segment.main, [*argv, "--dtype", CREDENTIALS[0]], monkeypatch, capsys)
    assert_no_canary(tmp_path / "runs", printed)


@pytest.mark.parametrize("option", ["train.images", "val.labels", "classes", "weights", "output"])
def test_credentials_in_an_option_of_training(option, tmp_path, monkeypatch, capsys):
    names = ("train.images", "train.labels", "val.images", "val.labels", "classes", "output")
    places = dict.fromkeys(names, str(tmp_path)) | {option: CREDENTIALS[0]}
    argv = [part for name, place in places.items() for part in (f"--{name}", place)]
    printed = refused(train.main, [*argv, "--model", "unet"], monkeypatch, capsys)
    assert f"--{option}: a URL must not hold a key or password" in printed
    assert_no_canary(tmp_path, printed)


@pytest.mark.parametrize("place", [f"s3://AKIAEXAMPLE:{CANARY}@bucket/a.jpg", f"https://u:{CANARY}@host/a.jpg", SIGNED])
@pytest.mark.parametrize("form", ["list", "table"])
def test_secrets_in_a_list_or_table(form, place, options, tmp_path, monkeypatch, capsys):
    if form == "list":
        (tmp_path / "input.txt").write_text(f"images/a.png\n{place}\n")
        source, where = tmp_path / "input.txt", "input.txt, line 2: "
    else:
        table = pa.table({"uri": [f"{tmp_path}/images/a.png", place]})
        pq.write_table(table, tmp_path / "input.parquet")
        source, where = tmp_path / "input.parquet", "input.parquet, row 1 (counted from 0): "
    argv = command("segment", **options | {"images": source})[2:]
    printed = refused(segment.main, argv, monkeypatch, capsys)
    assert where in printed
    assert "the plan of the run would store" in printed
    assert_no_canary(tmp_path / "runs", printed)


def test_secrets_in_the_settings_of_a_store_that_does_not_answer(
    options, s3, tmp_path, monkeypatch, capsys, fresh_clients
):
    """A password in the URL of the endpoint, and a wrong secret key, as error messages of clients may quote them."""
    argv = command("segment", **options | {"images": f"{s3}/none"})[2:]
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
        patch.setenv("AWS_SESSION_TOKEN", CANARY)
        printed = refused(segment.main, argv, patch, capsys)
        S3FileSystem.clear_instance_cache()
        patch.setenv("AWS_ENDPOINT_URL", f"http://user:{CANARY}@127.0.0.1:9")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        printed += refused(segment.main, argv, patch, capsys, IncompleteError.exit_code)
    assert printed.count("error: cannot list") == 2
    assert_no_canary(tmp_path / "runs", printed)


@pytest.fixture
def web() -> Iterator[str]:
    """A server that has the pictures whose names begin with "good"."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    with web_server(lambda path: buffer.getvalue() if path.startswith("/good") else None) as url:
        yield url


def test_queries_that_are_allowed_are_in_the_plan_alone(web, options, tmp_path, ray_driver, capsys):
    """The run fetches by them; its rows, report and messages leave them out."""
    lines = [f"{web}/good{i}.png?who={CANARY}" for i in range(2)] + [f"{web}/bad.png?who={CANARY}"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    config = SegmentConfig(**options | {"images": str(tmp_path / "list.txt"), "allow_queries": True})
    run = segment_here(config)
    assert run is not None
    rows = rows_of(run).to_pylist()
    assert [row["status"] for row in rows] == ["error", "ok", "ok"]
    assert [row["uri"] for row in rows] == sorted(line.split("?")[0] for line in lines)
    assert CANARY in str(pa.concat_tables(read_plan(run)).to_pylist())
    Path(run, "_run", "plan.parquet").unlink()
    printed = capsys.readouterr()
    assert_no_canary(Path(run), printed.out, printed.err)
