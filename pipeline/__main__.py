"""The program `segpipe`, which is also `python -m pipeline`: finds the command and runs it."""

import io
import sys
from typing import NoReturn

from pipeline import __version__
from pipeline.commands import COMMANDS, load
from pipeline.suggestions import did_you_mean

USAGE = """\
usage: segpipe COMMAND [OPTIONS]

Semantic segmentation of large image collections on Ray: train, segment in bulk, query.
"""


def main() -> NoReturn:
    """Run `segpipe` with the arguments of this process."""
    name, *arguments = sys.argv[1:] or [""]
    if name == "help" and arguments:
        name, arguments = arguments[0], ["--help"]
    name = name if name.startswith("-") else name.replace("_", "-")
    if name in COMMANDS:
        run_command(name, arguments)
    if name in ("--help", "-h", "help"):
        print(overview())
        sys.exit(0)
    if name == "--version":
        print(f"segpipe {__version__}")
        sys.exit(0)
    print(_unknown(name) if name else overview(), file=sys.stderr)
    sys.exit(2)


def run_command(name: str, arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit with its code.

    Args:
        name: Name in `COMMANDS`.
        arguments: Arguments of the command; those of this process by default.
    """
    from pipeline import cli

    _print_any_text()
    sys.argv = [f"segpipe {name}", *(sys.argv[1:] if arguments is None else arguments)]
    command = load(name).main
    if COMMANDS[name].is_resumable:
        cli.run_resumable(command)
    cli.run(command)


def _print_any_text() -> None:
    """Print characters that the terminal's encoding lacks as escapes, as Python does on standard error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def overview() -> str:
    """Return the text of `segpipe --help`: the commands by group."""
    width = max(map(len, COMMANDS))
    lines = [USAGE]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines.append(f"{group}:")
        lines += [f"  {name:<{width}}  {c.summary}" for name, c in COMMANDS.items() if c.group == group]
        lines.append("")
    return "\n".join([*lines, "segpipe COMMAND --help explains the options of a command, with examples."])


def _unknown(name: str) -> str:
    kind = "option" if name.startswith("-") else "command"
    hint = did_you_mean(name, ["--help", "--version", *COMMANDS], otherwise="segpipe --help lists the commands")
    return f"error: unknown {kind} {name}; {hint}"


if __name__ == "__main__":
    main()
