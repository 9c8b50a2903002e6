"""Completion scripts for shells, made from the commands and their options."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from pipeline import recipes
from pipeline.commands import COMMANDS, load
from pipeline.options import list_options

Shell = Literal["bash", "zsh", "fish"]
COMMON_FLAGS = ("--config", "--help", "--version")


class Entry(NamedTuple):
    """What can follow a command.

    Attributes:
        flags: Its flags.
        choices: The values of flags that accept only some.
        arguments: The values of its argument without a flag, if only some are accepted.
    """

    flags: list[str]
    choices: dict[str, tuple[str, ...]]
    arguments: tuple[str, ...]


def script(shell: Shell) -> str:
    """Return the completion script of a shell. Where nothing else fits, the shell completes the names of files."""
    entries = {name: _entry(name) for name in COMMANDS}
    return _fish(entries) if shell == "fish" else _bash(entries, is_zsh=shell == "zsh")


def _entry(name: str) -> Entry:
    module = load(name)
    options = list_options(module.CONFIG)
    flags = [form for option in options for form in option.flags]
    choices = {option.name: option.choices for option in options if option.choices and not option.is_argument}
    if hasattr(module, "RECIPES"):
        flags.append("--recipe")
    if "--recipe" in flags:
        choices["--recipe"] = tuple(recipes.names(getattr(module, "RECIPES", "")))
    arguments = next((option.choices for option in options if option.is_argument), ())
    return Entry([*flags, *COMMON_FLAGS], choices, tuple(COMMANDS) if name == "schema" else arguments)


def _bash(entries: dict[str, Entry], *, is_zsh: bool) -> str:
    """Return the script for bash; zsh runs the same through its `bashcompinit`."""
    head = ["autoload -U +X bashcompinit && bashcompinit"] if is_zsh else []
    return "\n".join(
        [
            *head,
            "_segpipe() {",
            '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""',
            "  if [ $COMP_CWORD -eq 1 ]; then",
            f'    words="{" ".join(entries)} --help --version"',
            "  else",
            '    case "${COMP_WORDS[1]} $before" in',
            *(f'      "{case}") words="{" ".join(values)}" ;;' for case, values in _values(entries)),
            '      *) case "${COMP_WORDS[1]}" in',
            *(f'        {name}) words="{" ".join((*e.arguments, *e.flags))}" ;;' for name, e in entries.items()),
            "      esac ;;",
            "    esac",
            '    if [ "${word#-}" = "$word" ] && [ "${before#--}" != "$before" ]; then',
            '      case "$words" in *--*) words="" ;; esac',
            "    fi",
            "  fi",
            '  COMPREPLY=($(compgen -W "$words" -- "$word"))',
            "}",
            "complete -o default -o bashdefault -F _segpipe segpipe",
            "",
        ]
    )


def _values(entries: dict[str, Entry]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, entry in entries.items():
        for flag, values in entry.choices.items():
            yield f"{name} {flag}", values


def _fish(entries: dict[str, Entry]) -> str:
    lines = [
        f"complete -c segpipe -n __fish_use_subcommand -f -a {name} -d '{command.summary.replace(chr(39), '’')}'"
        for name, command in COMMANDS.items()
    ]
    for name, entry in entries.items():
        seen = f"complete -c segpipe -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{seen} -f -a '{' '.join(entry.arguments)}'"] if entry.arguments else []
        for flag in entry.flags:
            values = entry.choices.get(flag)
            lines.append(f"{seen} -l {flag[2:]}" + (f" -x -a '{' '.join(values)}'" if values else ""))
    return "\n".join([*lines, ""])
