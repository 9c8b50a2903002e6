"""Command lines: a pydantic model becomes the options; a mistake ends in one line and exit code 2."""

import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pipeline import __version__, environment, recipes
from pipeline.errors import UserError, find_user_error, one_line
from pipeline.help import format_help
from pipeline.mistakes import explain_arguments, explain_values
from pipeline.options import flag, list_options
from pipeline.secrets import redact, without_secrets
from pipeline.storage import read_text
from pipeline.supervisor import supervise

Config = TypeVar("Config", bound=BaseModel)


def parse(
    config_type: type[Config],
    argv: list[str],
    *,
    description: str,
    common: Sequence[str] = (),
    recipe_folder: str | None = None,
) -> Config:
    """Build a configuration: flags beat environment (`SEGPIPE_…`) beat `--config FILE.yaml` beat defaults.

    Args:
        config_type: A pydantic model. Its fields become the flags, in kebab case; nested models give `--group.field`.
        argv: The arguments without the program's name; `_` is accepted for `-` in the name of a flag.
        description: The text of `--help`, which ends the process with 0, as does `--version`.
        common: Options that `--help` lists first; see `format_help`.
        recipe_folder: Folder below `pipeline/recipes` from which `--recipe NAME` takes defaults, which `--config`
            overrides; None for a command without recipes.

    Raises:
        UserError: An option is unknown, missing or has an invalid value.
    """
    if "--version" in argv:
        print(f"segpipe {__version__}")
        sys.exit(0)
    program = os.path.basename(sys.argv[0])
    if {"--help", "-h"} & set(argv):
        print(format_help(config_type, program=program, description=description, common=common, recipes=recipe_folder))
        sys.exit(0)
    arguments, files = [_kebab_case(argument) for argument in argv], []
    if recipe_folder is not None:
        arguments, recipe = _take(arguments, "--recipe")
        files += [] if recipe is None else [_located(recipe, recipe_folder)]
    arguments, config_file = _take(arguments, "--config")
    files += [] if config_file is None else [config_file]
    defaults = merged(*map(read_options, files))
    options = list_options(config_type)
    environment.warn_of_unknown(options)
    flags = ["--help", "--version", "--config", *([] if recipe_folder is None else ["--recipe"])]
    flags += [form for option in options for form in option.flags]
    arguments = _with_values(arguments, {option.name for option in options if not option.is_switch})
    if any(option.is_argument for option in options):
        arguments = _positional_first(arguments, {f for option in options if option.is_switch for f in option.flags})

    class Settings(config_type, BaseSettings):  # type: ignore[valid-type, misc]
        model_config = SettingsConfigDict(
            env_prefix=environment.PREFIX,
            env_nested_delimiter="__",
            nested_model_default_partial_update=True,
            cli_prog_name=program,
            cli_kebab_case="no_enums",
            cli_implicit_flags=True,
            cli_avoid_json=True,
            cli_hide_none_type=True,
            cli_exit_on_error=False,
            cli_use_class_docs_for_groups=False,
        )

        @classmethod
        def settings_customise_sources(  # type: ignore[override]
            cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            from_flags: PydanticBaseSettingsSource = CliSettingsSource(settings_cls, cli_parse_args=arguments)
            return from_flags, sources["env_settings"], sources["init_settings"]

    try:
        settings = Settings(**defaults)
    except SettingsError as error:
        raise UserError(explain_arguments(str(error), flags)) from None
    except ValidationError as error:
        raise UserError(explain_values(error, options, flags)) from None
    values = {name: getattr(settings, name) for name in config_type.model_fields}
    return config_type.model_construct(_fields_set=settings.model_fields_set, **values)


def read_options(url: str, *, noun: str = "configuration file") -> dict[str, Any]:
    """Read a YAML mapping of options to values.

    Args:
        url: The file.
        noun: What the file is to the user, for messages.

    Raises:
        UserError: It cannot be read, or is not such a mapping.
    """
    try:
        content = yaml.safe_load(read_text(url, noun=noun)) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{noun} {redact(url)}: no valid YAML ({one_line(error)})") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{noun} {redact(url)}: expected 'option: value' lines")
    return content


def run_resumable(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Run a job as `run` does, in a process of its own: whatever ends that process, one line says how to go on."""
    if not sys.argv[1:] or {"--help", "-h", "--version"} & set(sys.argv[1:]):
        run(main)
    supervise(lambda ended: run(main, ended))


def run(main: Callable[[list[str]], int | None], ended: Callable[[int, str], object] | None = None) -> NoReturn:
    """Run a job's `main` and exit with what it returns (None is 0), or with one line and the code of a `UserError`.

    Args:
        main: Takes the arguments without the program's name.
        ended: Called with the exit code and the line, in place of printing the line.
    """
    code, line = 1, ""  # of an error that is printed with its traceback
    try:
        code = main(sys.argv[1:]) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        code, line = 130, "interrupted; the same command resumes the run"
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        code = 141  # as a shell reports SIGPIPE
    except Exception as error:
        mistake = find_user_error(error)
        if mistake is None:
            raise
        code, line = mistake.exit_code, f"error: {without_secrets(str(mistake))}"
    finally:
        if ended is not None:
            ended(code, line)
    if line and ended is None:
        print(line, file=sys.stderr)
    sys.stdout.flush()
    sys.exit(code)


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as in `segpipe recipes | head -1`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _kebab_case(argument: str) -> str:
    """Write the name of a flag with dashes; its value, and other arguments, stay as they are."""
    match = re.match(r"--[\w.-]+", argument)
    return flag(match[0][2:]) + argument[match.end() :] if match else argument


def _take(arguments: list[str], name: str) -> tuple[list[str], str | None]:
    """Split off `--config FILE` or `--config=FILE`; of several, the last counts."""
    rest: list[str] = []
    value = None
    remaining = iter(arguments)
    for argument in remaining:
        if argument == name:
            value = next(remaining, None)
            if value is None:
                raise UserError(f"{name} needs a {'file' if name == '--config' else 'name or file'}")
        elif argument.startswith(f"{name}="):
            value = argument.removeprefix(f"{name}=")
        else:
            rest.append(argument)
    return rest, value


def _with_values(arguments: list[str], flags: set[str]) -> list[str]:
    """Join a flag and a value that begins with a dash, `--label-suffix -seg`, which would be taken for a flag."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in flags and re.match(r"-[^-]", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _positional_first(arguments: list[str], switches: set[str]) -> list[str]:
    """Move arguments without a flag to the front; argparse does not take an optional one behind a flag."""
    positional, rest = list[str](), list[str]()
    for i, argument in enumerate(arguments):
        before = arguments[i - 1] if i else ""
        is_value = before.startswith("--") and "=" not in before and before not in switches
        (rest if argument.startswith("--") or is_value else positional).append(argument)
    return positional + rest


def _located(recipe: str, folder: str) -> str:
    try:
        return recipes.locate(recipe, folder=folder)
    except ValueError as error:
        raise UserError(f"--recipe: {error}") from None


def merged(*mappings: dict[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; a later one overrides an earlier one, option by option."""
    result: dict[str, Any] = {}
    for mapping in mappings:
        for name, value in mapping.items():
            both = isinstance(value, dict) and isinstance(result.get(name), dict)
            result[name] = merged(result[name], value) if both else value
    return result
