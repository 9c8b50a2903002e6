"""What is wrong with the options of a command, in one line for the user."""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from pipeline.options import Option, flag
from pipeline.secrets import without_secrets
from pipeline.suggestions import closest, did_you_mean


def explain_arguments(message: str, flags: Sequence[str]) -> str:
    """Explain why the arguments of a command cannot be read.

    Args:
        message: The message of the parser.
        flags: The flags of the command.
    """
    message = message.removeprefix("error parsing CLI: ")
    unknown = re.match(r"unrecognized arguments: (--[\w.-]+)", message)
    if unknown:
        return _unknown_option(unknown[1], flags)
    stray = message.removeprefix("unrecognized arguments: ")
    if stray != message:
        return f"unexpected argument {without_secrets(stray)}; quote values with spaces or wildcards (see --help)"
    return f"{without_secrets(message)} (see --help)"


def explain_values(error: ValidationError, options: Sequence[Option], flags: Sequence[str]) -> str:
    """Explain which options are missing, unknown or wrong.

    Args:
        error: What pydantic found.
        options: The options of the command.
        flags: The flags of the command.
    """
    by_path: dict[tuple[Any, ...], Option] = {option.path: option for option in options}
    missing: list[str] = []
    lines: list[str] = []
    for problem in error.errors():
        location = problem["loc"]
        within = [location[:n] for n in range(len(location), 0, -1) if location[:n] in by_path]
        option = by_path[within[0]] if within else None
        if problem["type"] == "missing" and option is None:  # a group
            missing += [one.name for one in options if one.is_required and one.path[: len(location)] == location]
        elif problem["type"] == "missing" and option is not None and option.path == location:
            missing.append(option.name)
        elif problem["type"] == "extra_forbidden":
            lines.append(_unknown_option(flag(*location), flags))
        else:
            lines.append(_explain_value(problem, flag(*location) if option is None else option.name, option))
    return "; ".join([*_required(missing), *dict.fromkeys(lines)])


def _unknown_option(name: str, flags: Sequence[str]) -> str:
    in_groups = [known for known in flags if known.endswith(f".{name.removeprefix('--')}")][:3]
    hint = f"did you mean {' or '.join(in_groups)}?" if in_groups else did_you_mean(name, flags, otherwise="see --help")
    return f"unknown option {name}; {hint}"


def _required(names: Sequence[str]) -> list[str]:
    *others, last = names or [""]
    if not last:
        return []
    return [f"{', '.join(others)} and {last} are required" if others else f"{last} is required"]


def _explain_value(problem: Any, name: str, option: Option | None) -> str:
    """Explain a wrong value.

    Args:
        problem: What pydantic found.
        name: Name of the option or group; "--" for the whole configuration.
        option: The option; None for a group or the whole configuration.
    """
    kind, message, value = problem["type"], problem["msg"].removeprefix("Value error, "), problem["input"]
    if name == "--":
        return message
    if kind in ("model_type", "dict_type"):  # what stands in place of a group may be a secret
        return f"{name}: {message}"
    if kind in ("missing", "too_long") and option is not None and isinstance(value, list | tuple):
        about = option.description.partition(";")[0]
        return f"{name} needs {option.metavar}: {about} (got {without_secrets(','.join(map(str, value)))})"
    got = f"got {without_secrets(repr(value))}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
        close = closest(str(value), choices)
        got += f"; did you mean {close}?" if close else ""
    return f"{name}: {message} ({got})"
