"""Command lines of the jobs: a pydantic model in, one clear line and a non-zero exit out when it does not fit."""

import difflib
import os
import re
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pipeline.errors import UserError, find_user_error
from pipeline.storage import read_text

ENV_PREFIX = "SEGPIPE_"
Config = TypeVar("Config", bound=BaseModel)


def parse(config_type: type[Config], argv: list[str], *, description: str) -> Config:
    """The configuration of a job: flags beat environment (`SEGPIPE_…`) beat `--config FILE.yaml` beat defaults.

    Args:
        config_type: its fields become the flags; nested models give `--group.field`.
        argv: arguments without the program's name; `-` and `_` are the same in a flag's name.
        description: shown by `--help`, which ends the process with 0.

    Raises:
        UserError: an unknown flag, a missing or an invalid value.
    """
    flags = _flags(config_type)
    arguments = [_underscored(a, flags) for a in argv]
    arguments, from_file = _take_config_file(arguments)

    class Settings(config_type, BaseSettings):  # type: ignore[valid-type, misc]
        __doc__ = description + "\n\nAlso: --config FILE.yaml with any of the options below."
        model_config = SettingsConfigDict(
            env_prefix=ENV_PREFIX,
            env_nested_delimiter="__",
            nested_model_default_partial_update=True,
            cli_prog_name=os.path.basename(sys.argv[0]),
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
            flags: PydanticBaseSettingsSource = CliSettingsSource(settings_cls, cli_parse_args=arguments)
            return flags, sources["env_settings"], sources["init_settings"]

    try:
        settings = Settings(**from_file)
    except SettingsError as error:
        raise UserError(_explain_arguments(str(error), config_type)) from None
    except ValidationError as error:
        raise UserError(_explain_values(error)) from None
    values = {name: getattr(settings, name) for name in config_type.model_fields}
    return config_type.model_construct(_fields_set=settings.model_fields_set, **values)


def _underscored(argument: str, flags: list[str]) -> str:
    match = re.match(r"--[\w.-]+", argument)
    if not match:
        return argument
    flag = "--" + match[0][2:].replace("-", "_")
    if flag not in flags and "--" + flag.removeprefix("--no_") in flags:
        flag = "--no-" + flag.removeprefix("--no_")
    return flag + argument[match.end() :]


def _take_config_file(arguments: list[str]) -> tuple[list[str], dict[str, Any]]:
    rest: list[str] = []
    url = None
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--config":
            url = next(remaining, None)
            if url is None:
                raise UserError("--config needs a file")
        elif argument.startswith("--config="):
            url = argument.removeprefix("--config=")
        else:
            rest.append(argument)
    if url is None:
        return rest, {}
    try:
        content = yaml.safe_load(read_text(url, what="configuration file")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"configuration file {url}: no valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"configuration file {url}: expected 'option: value' lines")
    return rest, content


def _explain_arguments(message: str, config_type: type[BaseModel]) -> str:
    message = message.removeprefix("error parsing CLI: ")
    unknown = re.match(r"unrecognized arguments: (--[\w.]+)", message)
    if unknown:
        close = difflib.get_close_matches(unknown[1], _flags(config_type), n=1)
        hint = f"did you mean {close[0]}?" if close else "see --help"
        return f"unknown option {unknown[1]}; {hint}"
    return f"{message} (see --help)"


def _flags(config_type: type[BaseModel], prefix: str = "--") -> list[str]:
    flags = ["--config"] if prefix == "--" else []
    for name, field in config_type.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            flags += _flags(nested, f"{prefix}{name}.")
        else:
            flags.append(prefix + name)
    return flags


def _explain_values(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        option = "--" + ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            lines.append(f"{option} is required")
        elif problem["type"] == "extra_forbidden":
            lines.append(f"unknown option {option}")
        elif option == "--":
            lines.append(message)
        else:
            lines.append(f"{option}: {message} (got {problem['input']!r})")
    return "; ".join(lines)


def run(main: Callable[[list[str]], int | None]) -> None:
    """Run a job's `main` and exit: 0, or what it returns; 2 and one line on stderr for a user's mistake."""
    try:
        code = main(sys.argv[1:]) or 0
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        code = 130
    except Exception as error:
        mistake = find_user_error(error)
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        code = 2
    sys.stdout.flush()
    sys.exit(code)
