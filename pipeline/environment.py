"""Environment variables that look like options of a command and are none."""

import os
import sys
from collections.abc import Iterable, Sequence

from pipeline.commands import COMMANDS, load
from pipeline.options import Option, list_options
from pipeline.suggestions import closest

PREFIX = "SEGPIPE_"
NO_OPTIONS = ("SEGPIPE_RAY_LOGS", "SEGPIPE_END_")  # variables, or beginnings of them, with a meaning of their own


def variable(option: Option) -> str:
    """Return the environment variable of an option: `SEGPIPE_SCALING__USE_GPU`."""
    return PREFIX + "__".join(option.path).upper()


def warn_of_unknown(options: Sequence[Option]) -> None:
    """Print a line for each variable `SEGPIPE_…` that belongs to no option of any command.

    One environment may serve several commands, so that a variable of another command is none to warn of.

    Args:
        options: The options of the command that runs; the others are read only if there is another variable.
    """
    own = [variable(option) for option in options]
    unknown = [name for name in os.environ if _is_meant(name) and not _is_known(name, own)]
    if not unknown:
        return
    every = [variable(option) for name in COMMANDS for option in list_options(load(name).CONFIG)]
    for name in unknown:
        if not _is_known(name, every):
            close = closest(name.upper().removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in own])
            hint = f"did you mean {PREFIX}{close}?" if close else "--help lists the options"
            print(f"warning: {name} is ignored, because no command has such an option; {hint}", file=sys.stderr)


def _is_meant(name: str) -> bool:
    return name.upper().startswith(PREFIX) and not name.upper().startswith(NO_OPTIONS)


def _is_known(name: str, variables: Iterable[str]) -> bool:
    """Tell whether a variable sets an option, a group of options, or an entry of an option of the form NAME=VALUE."""
    name = name.upper()
    return any(f"{name}__".startswith(f"{one}__") or f"{one}__".startswith(f"{name}__") for one in variables)
