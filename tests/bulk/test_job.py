"""The end of a bulk job: its last line, exit code, command and webhook, whatever the outcome."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, storage
from pipeline.bulk.job import run_job
from pipeline.bulk.outcome import Outcome
from pipeline.errors import UserError
from tests.support.nights import PlainConfig, compute, config_of, draw, without_ray

SECRET = "hooks/T0/B0/XXXXsecretXXXX"


def job(config: PlainConfig, outcome_of: Any = compute) -> int:
    """Run a job as `cli.run` does, and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda argv: run_job(config, outcome_of, lambda tables: ""))
    return int(str(caught.value.code))


def last_line(text: str) -> dict[str, Any]:
    return json.loads(text.splitlines()[-1])


class Hook(HTTPServer):
    """A webhook on loopback that notes what is posted to it."""

    def __init__(self, status: int):
        self.status = status
        self.posted: list[tuple[str, dict[str, Any]]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{SECRET}"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((f"{self.path} {self.headers['Content-Type']}", json.loads(body)))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(params=[200, 500])
def hook(request) -> Iterator[Hook]:
    server = Hook(request.param)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def images(tmp_path, monkeypatch) -> Path:
    """A folder of three images, one of which is broken, whose runs need no Ray."""
    without_ray(monkeypatch)
    draw(tmp_path / "images", "a.png", "b.png", "broken.png")
    return tmp_path


def test_the_last_line_of_a_finished_run(images, capsys):
    assert job(config_of(images, run_id="x")) == 0
    end = last_line(capsys.readouterr().out)
    assert end.pop("seconds") >= 0
    run = f"{images}/runs/run_id=x"
    assert end == {
        "job": "plain",
        "run": run,
        "run_id": "x",
        "exit_code": 0,
        "message": None,
        "images": 3,
        "written": 3,
        "errors": 1,
        "removed": None,
        "report": f"{run}/report.html",
    }
    assert job(config_of(images, run_id="x")) == 0  # complete already
    assert last_line(capsys.readouterr().out)["errors"] == 1


def test_too_many_errors_are_reported_after_everything_is_written_and_again(images, capsys):
    for _ in range(2):
        assert job(config_of(images, run_id="x", max_error_rate=0.3)) == 4
        out, err = capsys.readouterr()
        assert "3 images, 1 errors" in out
        end = last_line(out)
        assert (end["exit_code"], end["written"], end["errors"]) == (4, 3, 1)
        assert err.endswith(f"error: {end['message']}\n")
        assert "1 of 3 images failed, more than --max-error-rate 0.3 accepts" in end["message"]
    assert job(config_of(images, run_id="x", max_error_rate=0.4)) == 0


def test_the_last_line_of_runs_that_end_otherwise(images, capsys):
    """A mistake before the run has a name, an interrupt, and an error of the program."""

    def mistake(config: PlainConfig, outcome: Outcome) -> str | None:
        raise UserError("no such bundle")

    assert job(config_of(images), mistake) == 2
    end = last_line(capsys.readouterr().out)
    assert (end["exit_code"], end["message"], end["run"], end["images"]) == (2, "no such bundle", None, 0)

    def interrupted(config: PlainConfig, outcome: Outcome) -> str | None:
        compute(config, outcome)
        raise KeyboardInterrupt

    assert job(config_of(images, run_id="x"), interrupted) == 130
    end = last_line(capsys.readouterr().out)
    assert (end["exit_code"], end["run_id"], end["written"], end["errors"]) == (130, "x", 3, 1)

    def broken(config: PlainConfig, outcome: Outcome) -> str | None:
        raise RuntimeError("the disk s3://key:secret@bucket is on fire")

    with pytest.raises(RuntimeError):
        run_job(config_of(images), broken, lambda tables: "")
    end = last_line(capsys.readouterr().out)
    assert (end["exit_code"], end["message"]) == (1, "RuntimeError: the disk s3://bucket is on fire")


def test_people_are_not_disturbed(images, capsys, monkeypatch):
    """No JSON on a terminal, unless it is asked for; none at all with `none`, and none after a dry run."""
    job(config_of(images, run_id="x", last_line="none"))
    assert "{" not in capsys.readouterr().out
    assert job(config_of(images, run_id="dry", dry_run=True, last_line="json")) == 0
    assert "{" not in capsys.readouterr().out
    monkeypatch.setattr("pipeline.bulk.job.sys.stdout.isatty", lambda: True, raising=False)
    job(config_of(images, run_id="x"))
    assert "{" not in capsys.readouterr().out
    job(config_of(images, run_id="x", last_line="json"))
    assert last_line(capsys.readouterr().out)["run_id"] == "x"


def test_the_command_has_the_json_and_the_values(images, capfd, monkeypatch):
    """What it prints does not come after the last line, and its own jobs do not announce themselves."""
    monkeypatch.setenv("SEGPIPE_ON_END__COMMAND", "false")
    monkeypatch.setenv("SEGPIPE_DTYPE", "float16")
    command = f"cat > {images}/end.json; env | grep ^SEGPIPE_ | sort > {images}/env; echo noise"
    assert job(config_of(images, run_id="x", on_end={"command": command})) == 0
    out, err = capfd.readouterr()
    assert "noise" in err
    assert json.loads((images / "end.json").read_text()) == last_line(out)
    assert (images / "env").read_text().splitlines() == [
        "SEGPIPE_DTYPE=float16",
        "SEGPIPE_END_ERRORS=1",
        "SEGPIPE_END_EXIT_CODE=0",
        "SEGPIPE_END_IMAGES=3",
        "SEGPIPE_END_JOB=plain",
        "SEGPIPE_END_MESSAGE=",
        "SEGPIPE_END_REMOVED=",
        f"SEGPIPE_END_REPORT={images}/runs/run_id=x/report.html",
        f"SEGPIPE_END_RUN={images}/runs/run_id=x",
        "SEGPIPE_END_RUN_ID=x",
        f"SEGPIPE_END_SECONDS={last_line(out)['seconds']}",
        "SEGPIPE_END_WRITTEN=3",
    ]


def test_a_command_that_fails_is_a_warning(images, capfd):
    assert job(config_of(images, run_id="x", on_end={"command": "exit 7"})) == 0
    out, err = capfd.readouterr()
    assert "warning: --on-end.command ended with exit code 7" in err
    assert last_line(out)["exit_code"] == 0


def test_the_webhook_gets_the_json_and_its_url_is_nowhere(images, hook, capsys):
    """Neither in what is stored nor in what is printed, whether it answers or fails."""
    assert job(config_of(images, run_id="x", on_end={"webhook": hook.url})) == 0
    out, err = capsys.readouterr()
    ((request, posted),) = hook.posted
    assert request == f"/{SECRET} application/json"
    assert posted == last_line(out)
    assert ("warning: --on-end.webhook answered with status 500" in err) == (hook.status == 500)
    assert "secret" not in out + err
    for file in storage.list_files(f"{images}/runs"):
        assert b"secret" not in storage.read_bytes(file.path)


@pytest.mark.parametrize("place", ["http://127.0.0.1:9", "http://[bad", "http://127.0.0.1:port", "http://no such host"])
def test_a_webhook_that_cannot_be_called_is_a_warning(images, capsys, place):
    assert job(config_of(images, run_id="x", on_end={"webhook": f"{place}/{SECRET}"})) == 0
    out, err = capsys.readouterr()
    assert "warning: --on-end.webhook could not be called" in err
    assert "secret" not in out + err


def test_a_webhook_of_another_protocol_is_refused_before_the_run(images, capsys):
    assert job(config_of(images, run_id="x", on_end={"webhook": f"ftp://host/{SECRET}"})) == 2
    out, err = capsys.readouterr()
    assert err == "error: --on-end.webhook needs a URL that begins with https:// or http://\n"
    assert "secret" not in out
    assert not (images / "runs").exists()


def test_the_webhook_is_not_sent_to_workers(images):
    """The configuration that is sent to them has none."""
    seen = []

    def look(config: PlainConfig, outcome: Outcome) -> str | None:
        seen.append(config.on_end.webhook)
        return None

    run_job(config_of(images, on_end={"webhook": f"https://host/{SECRET}"}), look, lambda tables: "")
    assert seen == [None]


def test_the_options_of_the_end_do_not_name_another_run(images):
    """A run resumes although what happens at its end has changed."""
    assert job(config_of(images, run_id="x")) == 0
    changed = config_of(images, run_id="x", on_end={"command": "true"}, deadline="1h", max_error_rate=0.9)
    assert changed.deciding_options() == config_of(images).deciding_options()
    assert job(changed) == 0
