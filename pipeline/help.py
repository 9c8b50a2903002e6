"""The text of `COMMAND --help`: required and common options first, then a section for each group."""

import shutil
import textwrap
from collections.abc import Iterable, Sequence

from pydantic import BaseModel

from pipeline.environment import variable
from pipeline.options import Option, list_options

INDENT = 26  # columns before the descriptions
WIDEST = 120
REQUIRED, COMMON, OTHERS = "Required", "Common", "Further options"


def format_help(
    config_type: type[BaseModel], *, program: str, description: str, common: Sequence[str] = (), recipes: str | None
) -> str:
    """Return the text of `--help`.

    Args:
        config_type: The configuration.
        program: Name of the program, as in "segpipe segment".
        description: What the command does, with its examples.
        common: Options to list after the required ones, as names of fields with dots.
        recipes: Folder of the command's recipes; None if it has none.
    """
    options = list_options(config_type)
    arguments = "".join(f" {option.name}" for option in options if option.is_argument)
    lines = [f"usage: {program}{arguments} [OPTIONS]", "", description.strip(), ""]
    for title, members in _sections(options, common):
        lines += [f"{title}:", *(line for option in members for line in _entry(_head(option), _about(option))), ""]
    lines.append("From elsewhere:")
    lines += _entry("--config FILE.yaml", "read options from a file, as in `epochs: 20` and `optimiser: {lr: 0.1}`")
    if recipes is not None:
        lines += _entry("--recipe NAME", "take defaults from a recipe (segpipe recipes lists them), a file or a URL")
    example = next((option for option in options if not option.is_argument), None)
    if example is not None:
        lines += _entry(
            variable(example),
            f"environment variable for {example.name}; all options have one. Flags precede "
            "variables, and these the file and the recipe",
        )
    return "\n".join(lines)


def _sections(options: list[Option], common: Sequence[str]) -> Iterable[tuple[str, list[Option]]]:
    """Return the headings and their options; headings without options are left out."""
    required = [option for option in options if option.is_required]
    by_name = {".".join(option.path): option for option in options}
    named = [by_name[name] for name in common if not by_name[name].is_required]
    rest = [option for option in options if option not in required and option not in named]
    sections = {REQUIRED: required, COMMON: named, OTHERS if named else "Options": []}
    for option in rest:
        title = f"{option.group}: {_lower(option.group_description)}" if option.group else list(sections)[2]
        sections.setdefault(title, []).append(option)
    return [(title, members) for title, members in sections.items() if members]


def _lower(sentence: str) -> str:
    """Return a docstring's first line as a heading: without the full stop, and in lower case after a colon."""
    return (sentence[:1].lower() + sentence[1:]).rstrip(".")


def _head(option: Option) -> str:
    return ", ".join(option.flags or [option.name]) + (f" {option.metavar}" if option.flags and option.metavar else "")


def _about(option: Option) -> str:
    return option.description + (f" (default: {option.default})" if option.default else "")


def _entry(head: str, about: str) -> list[str]:
    width = min(WIDEST, shutil.get_terminal_size((100, 24)).columns)
    text = textwrap.wrap(about, max(40, width - INDENT), break_long_words=False, break_on_hyphens=False) or [""]
    head = f"  {head}"
    lines = [f"{head:<{INDENT}}{text.pop(0)}"] if len(head) < INDENT - 1 else [head]
    return [*lines, *(" " * INDENT + line for line in text)]
