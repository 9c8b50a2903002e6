"""Command lines: precedence, spelling, error messages, help, exit codes, and the user's error within an exception."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import CliPositionalArg
from ray.exceptions import ActorUnavailableError, RayActorError

from pipeline import __version__, cli, environment
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.upkeep_config import StatusConfig
from pipeline.errors import IncompleteError, UserError, find_user_error
from pipeline.training.segmentation.config import TrainConfig


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Group(_Strict):
    learning_rate: float = 0.1
    steps: int = Field(default=5, ge=1, description="number of steps")
    use_gpu: bool = True
    size: tuple[int, int] = Field(default=(1, 2), description="height and width; smaller things are padded")

    @model_validator(mode="after")
    def _square(self) -> "Group":
        if self.size[0] > self.size[1]:
            raise ValueError("size: wider than high")
        return self


class Config(_Strict):
    name: str = Field(description="name of the thing, 100 % required")
    batch_size: int = 3
    place: str | None = None
    fast: bool = False
    slow: bool = True
    speed: Literal["slow", "fast"] = "slow"
    options: dict[str, str] = {}
    group: Group = Group(learning_rate=0.5)


class Asked(_Strict):
    place: CliPositionalArg[str]
    question: CliPositionalArg[str | None] = None
    every: bool = False
    polite: bool = True
    limit: int | None = None


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(environment.PREFIX):
            monkeypatch.delenv(name)


Write = Callable[[str], str]
Main = Callable[[list[str]], int | None]
Run = Callable[..., tuple[object, str, str]]


@pytest.fixture
def yaml_file(tmp_path: Path) -> Write:
    """Return a function that writes a configuration file and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return str(path)

    return write


def parse(*arguments: str, kind: type = Config) -> Any:
    return cli.parse(kind, list(arguments), description="Does a thing.")


def refusal(*arguments: str, kind: type = Config) -> str:
    """Return the error message, and check that it is one line."""
    with pytest.raises(UserError) as caught:
        parse(*arguments, kind=kind)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- precedence


def test_options_that_are_not_given_have_their_defaults() -> None:
    assert parse("--name", "x") == Config(name="x")
    assert type(parse("--name", "x")) is Config


def test_flags_precede_environment_file_and_defaults(yaml_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = yaml_file("name: file\nbatch_size: 10\nplace: file\n")
    assert parse("--config", file) == Config(name="file", batch_size=10, place="file")
    monkeypatch.setenv("SEGPIPE_BATCH_SIZE", "20")
    monkeypatch.setenv("SEGPIPE_PLACE", "environment")
    assert parse("--config", file) == Config(name="file", batch_size=20, place="environment")
    assert parse("--config", file, "--place", "flag") == Config(name="file", batch_size=20, place="flag")


def test_nested_options_are_merged_individually(yaml_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = yaml_file("name: x\ngroup:\n  learning_rate: 1.5\n  steps: 10\n  size: [3, 4]\n")
    assert parse("--config", file).group == Group(learning_rate=1.5, steps=10, size=(3, 4))
    monkeypatch.setenv("SEGPIPE_GROUP__STEPS", "20")
    monkeypatch.setenv("SEGPIPE_GROUP__SIZE", "[5, 6]")
    found = parse("--config", file, "--group.size", "7,8").group
    assert found == Group(learning_rate=1.5, steps=20, size=(7, 8))


def test_a_nested_option_keeps_the_other_defaults_of_its_group() -> None:
    assert parse("--name", "x", "--group.steps", "9").group == Group(learning_rate=0.5, steps=9)


@pytest.mark.parametrize("form", ["--config={}", "--config {}"])
def test_the_configuration_file_may_be_given_anywhere_and_in_both_forms(yaml_file: Write, form: str) -> None:
    arguments = form.format(yaml_file("name: x\nbatch_size: 7\n")).split(" ")
    assert parse(*arguments, "--place", "p") == parse("--place", "p", *arguments)
    assert parse("--place", "p", *arguments) == Config(name="x", batch_size=7, place="p")


def test_the_configuration_file_overrides_options_of_a_recipe(tmp_path: Path, yaml_file: Write) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: recipe\nbatch_size: 7\ngroup: {steps: 2, learning_rate: 0.3}\n")
    config = yaml_file("name: file\ngroup: {learning_rate: 0.2}\n")
    found = cli.parse(
        Config, ["--recipe", str(recipe), "--config", config, "--group.steps", "9"], description="", recipe_folder=""
    )
    assert (found.name, found.batch_size, found.group.learning_rate, found.group.steps) == ("file", 7, 0.2, 9)


def test_a_configuration_file_may_be_empty(yaml_file: Write) -> None:
    assert parse("--config", yaml_file("# nothing\n"), "--name", "x") == Config(name="x")


# --- spelling


@pytest.mark.parametrize("flag", ["--batch-size", "--batch_size"])
@pytest.mark.parametrize("form", ["{} 7", "{}=7"])
def test_dashes_and_underscores_are_equivalent(flag: str, form: str) -> None:
    assert parse("--name", "x", *form.format(flag).split(" ")).batch_size == 7


def test_nested_flags_may_have_dashes() -> None:
    assert parse("--name", "x", "--group.learning-rate", "2").group.learning_rate == 2


@pytest.mark.parametrize("value", ["a-b_c", "s3://bucket/a-b", "x=--batch-size", "-5", "-seg", "ü ñ"])
def test_values_are_not_changed(value: str) -> None:
    assert parse("--name", value).name == value
    assert parse(f"--name={value}").name == value


def test_switches_turn_on_and_off() -> None:
    found = parse("--name", "x", "--fast", "--no-slow", "--no-group.use-gpu")
    assert (found.fast, found.slow, found.group.use_gpu) == (True, False, False)
    found = parse("--name", "x", "--no_slow", "--no-group.use_gpu")
    assert (found.slow, found.group.use_gpu) == (False, False)


def test_an_optional_switch_is_on_off_or_unset() -> None:
    places = ["--model", "m", "--images", "i", "--output", "o"]
    assert parse(*places, kind=SegmentConfig).scaling.use_gpu is None
    assert parse(*places, "--no-scaling.use-gpu", kind=SegmentConfig).scaling.use_gpu is False
    assert parse(*places, "--scaling.use-gpu", kind=SegmentConfig).scaling.use_gpu is True


def test_options_of_a_dictionary_accumulate() -> None:
    assert parse("--name", "x", "--options", "a=1", "--options", "b-c=d=e").options == {"a": "1", "b-c": "d=e"}


def test_model_options_have_the_types_of_yaml() -> None:
    required = "--model m --train.images a --train.labels b --val.images c --val.labels d --classes e --output f"
    extra = "--model-options width=0.25 --model-options stride=8 --model-options auxiliary_head=true"
    found = parse(*required.split(), *extra.split(), kind=TrainConfig)
    assert found.model_options == {"width": 0.25, "stride": 8, "auxiliary_head": True}


# --- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nmae", "x"], "unknown option --nmae; did you mean --name?"),
        (["--name", "x", "--batch-sise", "3"], "unknown option --batch-sise; did you mean --batch-size?"),
        (["--name", "x", "--batch", "3"], "unknown option --batch; did you mean --batch-size?"),  # no abbreviations
        (["--name", "x", "--group.stepz=3"], "unknown option --group.stepz; did you mean --group.steps?"),
        (["--name", "x", "--confg", "f"], "unknown option --confg; did you mean --config?"),
        (["--name", "x", "--zzz", "3"], "unknown option --zzz; see --help"),
    ],
)
def test_an_unknown_option_is_refused_with_the_most_similar_one(arguments: list[str], message: str) -> None:
    assert refusal(*arguments) == message


def test_all_missing_options_are_reported() -> None:
    assert refusal() == "--name is required"
    message = refusal("--model", "m", "--train.images", "x", kind=TrainConfig)
    assert message == "--output, --train.labels, --val.images, --val.labels and --classes are required"
    assert refusal("--model", "m", "--classes", "c", kind=TrainConfig) == (
        "--output, --train.images, --train.labels, --val.images and --val.labels are required"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "many"], r"--batch-size: Input should be a valid integer.* \(got 'many'\)"),
        (["--group.steps", "0"], r"--group.steps: Input should be greater than or equal to 1 \(got '0'\)"),
        (["--group.size", "5,4"], r"--group: size: wider than high"),
        (["--group.size", "5"], r"--group.size needs N,N: height and width \(got 5\)"),
        (["--group.size", "5,6,7"], r"--group.size needs N,N: height and width \(got 5,6,7\)"),
        (["--group.size", "5,x"], r"--group.size: Input should be a valid integer.* \(got 'x'\)"),
        (["--speed", "fsat"], r"--speed: Input should be 'slow' or 'fast' \(got 'fsat'; did you mean fast\?\)"),
        (["--speed", "x"], r"--speed: Input should be 'slow' or 'fast' \(got 'x'\)"),
        (["--batch-size"], r"--batch-size: expected one argument \(see --help\)"),
        (["stray"], r"unexpected argument stray; quote values with spaces or wildcards \(see --help\)"),
        (["--config"], r"--config needs a file"),
    ],
)
def test_wrong_values_are_reported_with_their_option(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse("--name", "x", *arguments)


def test_all_wrong_values_are_reported_at_once() -> None:
    message = refusal("--batch-size", "a", "--group.steps", "b")
    assert [part.split(":")[0].split(" ")[0] for part in message.split("; ")] == [
        "--name",
        "--batch-size",
        "--group.steps",
    ]


def test_a_wrong_value_of_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGPIPE_GROUP__STEPS", "none")
    assert "--group.steps: Input should be a valid integer" in refusal("--name", "x")


def test_a_variable_that_no_command_knows_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--model", "m", "--images", "i", "--output", "o"]
    for name in ("LABEL_PREFIX", "EPOCHS", "SCALING", "MODEL_OPTIONS__WIDTH", "END_RUN", "RAY_LOGS", "label_suffix"):
        monkeypatch.setenv(f"SEGPIPE_{name}", "{}")
    parse(*places, kind=SegmentConfig)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("SEGPIPE_LABEL_PREFX", "gt_")
    monkeypatch.setenv("SEGPIPE_ZZZZ", "1")
    assert parse(*places, kind=SegmentConfig).label_prefix == "{}"
    assert capsys.readouterr().err.splitlines() == [
        "warning: SEGPIPE_LABEL_PREFX is ignored, because no command has such an option; did you mean "
        "SEGPIPE_LABEL_PREFIX?",
        "warning: SEGPIPE_ZZZZ is ignored, because no command has such an option; --help lists the options",
    ]


def test_rules_between_options_have_their_own_messages() -> None:
    places = ["--model", "m", "--images", "i", "--output", "o"]
    message = refusal(*places, "--since", "a", "--retry-errors", "b", kind=SegmentConfig)
    assert message == "--since and --retry-errors exclude each other"
    message = refusal(*places, "--labels", "i/", "--label-prefix", "gt_", kind=SegmentConfig)
    assert message.startswith("--images and --labels are one folder")


def test_an_option_without_its_group_is_found_in_all_of_them() -> None:
    message = refusal("--images", "i", kind=TrainConfig)
    assert message == "unknown option --images; did you mean --train.images or --val.images?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nnope: 3\n", "unknown option --nope; did you mean --name?"),
        ("name: x\nzzzz: 3\n", "unknown option --zzzz; see --help"),
        ("name: x\ngroup: {nope: 3}\n", "unknown option --group.nope"),
        ("name: x\ngroup: 5\n", "--group: Input should be a valid dictionary"),
        ("name: x\nbatch_size: [1\n", "job.yaml: no valid YAML"),
        ("- name\n", "job.yaml: expected 'option: value' lines"),
        ("name\n", "job.yaml: expected 'option: value' lines"),
        ("1: x\n", "job.yaml"),
    ],
)
def test_an_invalid_configuration_file_is_refused(yaml_file: Write, text: str, message: str) -> None:
    assert message in refusal("--config", yaml_file(text))


def test_what_stands_in_place_of_a_group_is_not_quoted(yaml_file: Write) -> None:
    places = ["--model", "m", "--images", "i", "--output", "o"]
    message = refusal(*places, "--config", yaml_file("on_end: https://hooks/secret\n"), kind=SegmentConfig)
    assert message.startswith("--on-end: ")
    assert "secret" not in message


def test_an_argument_without_a_flag() -> None:
    assert parse("s3://bucket/run", "--watch", kind=StatusConfig) == StatusConfig(run="s3://bucket/run", watch=True)
    assert refusal(kind=StatusConfig) == "the following arguments are required: RUN (see --help)"
    assert refusal("--run", "x", kind=StatusConfig) == "unknown option --run; see --help"


def test_a_missing_configuration_file_is_reported(tmp_path: Path) -> None:
    message = refusal("--config", str(tmp_path / "nowhere.yaml"))
    assert message == f"cannot read the configuration file {tmp_path / 'nowhere.yaml'}: it does not exist"


# --- help


def field_names(kind: type[BaseModel], prefix: str = "--") -> list[str]:
    names = []
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += field_names(field.annotation, f"{prefix}{name}.")
        else:
            names.append((prefix + name).replace("_", "-"))
    return names


def test_the_version_is_printed(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"segpipe {__version__}\n"


@pytest.mark.parametrize("kind", [Config, TrainConfig, SegmentConfig])
def test_help_lists_every_option(kind: type[BaseModel], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help", kind=kind)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "Does a thing." in text
    assert "--config FILE.yaml" in text
    words = text.replace(",", " ").split()
    assert [name for name in field_names(kind) if name not in words] == []


# --- exit codes


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a job with arguments and returns its exit code, output and error output."""

    def run_main(main: Main, *arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["job", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.run(main)
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run_main


def raising(error: BaseException, cause: BaseException | None = None) -> Main:
    def main(argv: list[str]) -> int | None:
        raise error from cause

    return main


def test_a_user_error_gives_one_line_and_exit_code_2(run: Run) -> None:
    assert run(raising(UserError("no such bucket"))) == (2, "", "error: no such bucket\n")


def test_a_user_error_within_another_error_gives_the_same(run: Run) -> None:
    main = raising(RuntimeError("task failed\nTraceback ..."), UserError("no such bucket"))
    assert run(main) == (2, "", "error: no such bucket\n")


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_the_exit_code_is_the_returned_value(run: Run, returned: int | None, code: int) -> None:
    received: list[str] = []

    def main(argv: list[str]) -> int | None:
        received.extend(argv)
        return returned

    assert run(main, "--name", "x") == (code, "", "")
    assert received == ["--name", "x"]


def test_the_exit_code_of_an_interrupt_is_130(run: Run) -> None:
    code, _, err = run(raising(KeyboardInterrupt()))
    assert code == 130
    assert err.count("\n") == 1


def test_other_errors_keep_their_traceback(run: Run) -> None:
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()))


def test_a_process_prints_one_line_and_exits_with_2() -> None:
    program = (
        "from pydantic import BaseModel\n"
        "from pipeline import cli\n"
        "class C(BaseModel):\n    name: str\n"
        "cli.run(lambda argv: print(cli.parse(C, argv, description='')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, "--nam", "x"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown option --nam; did you mean --name?\n"


# --- the user's error within an exception


class TaskError(UserError):
    """A task's `UserError` as Ray raises it: a subclass with the traceback before the message."""

    def __init__(self, cause: Exception):
        super().__init__(f"Traceback ...\n{cause}")
        self.cause = cause


class WorkersError(RuntimeError):
    """The error that Ray Train raises for its workers."""

    def __init__(self, failures: dict[int, Exception]):
        super().__init__("workers failed")
        self.worker_failures = failures


class ControllerError(RuntimeError):
    """The error that Ray Train raises for its controller."""

    def __init__(self, failure: Exception):
        super().__init__("controller failed")
        self.controller_failure = failure


E = TypeVar("E", bound=BaseException)


def caused(error: E, cause: BaseException) -> E:
    error.__cause__ = cause
    return error


ERROR = UserError("the user's error")


@pytest.mark.parametrize(
    "error",
    [
        ERROR,
        caused(RuntimeError("outer"), ERROR),
        caused(RuntimeError("outer"), caused(ValueError("middle"), ERROR)),
        TaskError(ERROR),
        WorkersError({0: RuntimeError("lost"), 1: ERROR}),
        WorkersError({0: TaskError(ERROR)}),
        ControllerError(WorkersError({3: caused(RuntimeError("actor"), TaskError(ERROR))})),
    ],
    ids=["plain", "cause", "two causes", "task", "workers", "worker's task", "controller"],
)
def test_the_user_error_is_found_at_every_place(error: BaseException) -> None:
    assert find_user_error(error) is ERROR


def test_the_user_error_is_found_before_a_later_error() -> None:
    def main() -> None:
        try:
            raise ERROR
        finally:
            raise KeyError("clean-up failed")

    with pytest.raises(KeyError) as caught:
        main()
    assert find_user_error(caught.value) is ERROR


def test_a_plain_user_error_is_preferred_to_a_wrapped_one() -> None:
    plain = UserError("plain")
    assert find_user_error(caused(plain, TaskError(RuntimeError("lost")))) is plain


def test_a_wrapped_user_error_without_its_cause_is_better_than_none() -> None:
    wrapped = TaskError(RuntimeError("lost"))
    assert find_user_error(caused(RuntimeError("outer"), wrapped)) is wrapped


def test_other_errors_contain_no_user_error() -> None:
    assert find_user_error(caused(RuntimeError("a"), ValueError("b"))) is None
    assert find_user_error(WorkersError({0: RuntimeError("lost")})) is None


def test_a_failure_of_ray_itself_is_one_line_and_a_fault_of_the_program_is_not() -> None:
    lost = find_user_error(ActorUnavailableError("RpcError: the machine is gone\nat once", b"0" * 16))
    assert isinstance(lost, IncompleteError)
    assert re.fullmatch(r"Ray has failed \(ActorUnavailableError: .* gone at once.*\); run the .* again", str(lost))
    of_constructor = RayActorError(
        error_msg="The actor died because of an error raised in its creation task, KeyError: 3"
    )
    assert find_user_error(of_constructor) is None
    assert find_user_error(caused(ActorUnavailableError("lost", b"0" * 16), KeyError(3))) is None


def test_exceptions_may_refer_to_each_other() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert find_user_error(first) is None


def test_a_full_disk_is_a_line_that_says_how_to_go_on():
    full = OSError(errno.ENOSPC, "No space left on device", "/tmp/part")
    found = find_user_error(caused(RuntimeError("a shard"), full))
    assert isinstance(found, IncompleteError)
    assert str(found) == "no space is left for /tmp/part; make room, and the same command goes on"
    text = find_user_error(RuntimeError("task failed: OSError: [Errno 28] No space left on device"))
    assert str(text) == "no space is left on a disk that the job writes to; make room, and the same command goes on"
    assert find_user_error(OSError(errno.EIO, "Input/output error")) is None


@pytest.mark.parametrize(
    "argv",
    [
        ["here", "why now?", "--every", "--no-polite", "--limit", "3"],
        ["here", "--every", "why now?", "--limit", "3", "--no-polite"],
        ["--limit=3", "--every", "here", "--no-polite", "why now?"],
        ["--limit", "3", "--no-polite", "--every", "here", "why now?"],
    ],
)
def test_arguments_without_a_flag_may_stand_anywhere(argv):
    config = cli.parse(Asked, argv, description="")
    assert config == Asked(place="here", question="why now?", every=True, polite=False, limit=3)
    with pytest.raises(UserError, match="unexpected argument really"):
        cli.parse(Asked, [*argv, "really"], description="")
    with pytest.raises(UserError, match="unknown option --evry; did you mean --every"):
        cli.parse(Asked, ["here", "--evry", "why now?"], description="")
