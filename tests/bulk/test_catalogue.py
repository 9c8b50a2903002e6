"""What is said about a folder that is no run, by every command that takes one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.bulk.plan import read_manifest
from pipeline.bulk.status import StatusReader
from pipeline.errors import UserError
from pipeline.query.runs import find_runs


def begun(output: Path, name: str) -> Path:
    """Write the folder of a run that has a plan."""
    folder = output / f"run_id={name}"
    (folder / "_run").mkdir(parents=True)
    (folder / "_run" / "config.json").write_text("{}")
    return folder


def failed(output: Path, name: str) -> Path:
    """Make the folder of a run that ended before it had a plan."""
    folder = output / f"run_id={name}"
    (folder / "_run").mkdir(parents=True)
    return folder


def refusal(read: Callable[[str], object], place: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(str(place))
    message = str(caught.value)
    assert "\n" not in message
    assert not any(name in message for name in ("manifest", "config.json", "Errno"))
    return message


READERS = {"export": read_manifest, "status": lambda run: StatusReader(run).read(), "query": find_runs}


@pytest.mark.parametrize("command", READERS)
def test_what_is_no_run_is_described_in_the_words_of_the_user(tmp_path: Path, command: str) -> None:
    read, advice = READERS[command], "name the folder of a run, OUTPUT/run_id=…"
    (tmp_path / "a.png").write_bytes(b"")
    assert refusal(read, tmp_path / "a.png") == f"{tmp_path}/a.png is a file, not a run; {advice}"
    assert refusal(read, tmp_path / "none") == f"{tmp_path}/none does not exist; {advice}"
    assert refusal(read, tmp_path) == f"{tmp_path} is not a run; {advice}"
    empty = failed(tmp_path, "x")
    assert refusal(read, empty).startswith(f"{empty} has written nothing yet: its command ended early, or is still ")


@pytest.mark.parametrize("command", ["export", "status"])
def test_a_folder_of_runs_names_up_to_five_that_have_begun(tmp_path: Path, command: str) -> None:
    failed(tmp_path, "z")
    for name in "abcdefg":
        last = begun(tmp_path, name)
    assert refusal(READERS[command], tmp_path) == (
        f"{tmp_path} is not a run, but the folder of runs: c, d, e, f, g and 2 more; name one of them, such as {last}"
    )


def test_an_unfinished_run_is_told_from_none(tmp_path: Path) -> None:
    run = begun(tmp_path, "a")
    assert refusal(read_manifest, run) == f"{run} is not finished; segpipe status {run} says what to do"


def test_a_query_does_not_offer_a_run_that_has_written_nothing(tmp_path: Path) -> None:
    failed(tmp_path, "z")
    assert "run_id=z has written nothing yet" in refusal(find_runs, tmp_path)
    begun(tmp_path, "a")
    assert refusal(find_runs, tmp_path).endswith("--run-id NAME queries what one has written: a")
