"""The options that a configuration has on the command line, for help, completion and error messages."""

import types
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_settings import CliPositionalArg

from pipeline.storage import Url

_POSITIONAL = get_args(CliPositionalArg)[1]  # marks fields that are arguments without a flag
_URL = get_args(Url)[1]


class Option(NamedTuple):
    """An option of a command.

    Attributes:
        path: Names of its groups and its field.
        description: Text of `--help`.
        metavar: Form of its value; empty for a switch.
        choices: Values that it accepts; empty for any.
        default: Its default as text; empty if it has none, or if the description names it.
        is_required: Whether the command refuses to run without it.
        is_switch: Whether it is on or off.
        is_on: Whether a switch may be on by default.
        is_argument: Whether it is an argument without a flag.
        group_description: Docstring of its group's class, first line; empty outside groups.
    """

    path: tuple[str, ...]
    description: str
    metavar: str
    choices: tuple[str, ...]
    default: str
    is_required: bool
    is_switch: bool
    is_on: bool
    is_argument: bool
    group_description: str

    @property
    def name(self) -> str:
        """Its flag, or the name of the argument in capitals."""
        return self.path[-1].upper() if self.is_argument else flag(*self.path)

    @property
    def group(self) -> str:
        """Its groups, joined by dots; empty for none."""
        return ".".join(self.path[:-1])

    @property
    def flags(self) -> list[str]:
        """The forms of its flag; none for an argument."""
        if self.is_argument:
            return []
        negative = [f"--no-{self.name[2:]}"] if self.is_switch and self.is_on else []
        return [self.name, *negative]


def flag(*path: Any) -> str:
    """Return the flag of an option, given by the names of its groups and field: `--scaling.use-gpu`."""
    return "--" + ".".join(map(str, path)).replace("_", "-")


def list_options(config_type: type[BaseModel]) -> list[Option]:
    """Return the options of a configuration in the order of its fields."""
    return list(_options(config_type, (), None, is_required=True, about=""))


def _options(
    config_type: type[BaseModel], groups: tuple[str, ...], defaults: BaseModel | None, *, is_required: bool, about: str
) -> Iterator[Option]:
    for name, field in config_type.model_fields.items():
        default = field.get_default(call_default_factory=True) if defaults is None else getattr(defaults, name)
        needed = is_required and field.is_required()
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            group_default = default if isinstance(default, BaseModel) else None
            text = (kind.__doc__ or "").partition("\n")[0]
            yield from _options(kind, (*groups, name), group_default, is_required=needed, about=text)
        else:
            yield _option((*groups, name), field, default, is_required=needed, about=about)


def _option(path: tuple[str, ...], field: FieldInfo, default: Any, *, is_required: bool, about: str) -> Option:
    description = field.description or ""
    metavar, choices = _form(field.annotation, field.metadata)
    is_switch = metavar == "bool"
    is_empty = field.is_required() or default is None or default in ((), {}, "")
    is_shown = not (is_empty or is_switch or "(default:" in description)
    return Option(
        path=path,
        description=description,
        metavar="" if is_switch else metavar,
        choices=choices,
        default=_text(default) if is_shown else "",
        is_required=is_required,
        is_switch=is_switch,
        is_on=is_switch and default is not False,
        is_argument=_POSITIONAL in field.metadata,
        group_description=about,
    )


def _form(annotation: Any, metadata: list[Any]) -> tuple[str, tuple[str, ...]]:
    """Return the form of a value for people ("bool" for a switch), and the values that are accepted."""
    if hasattr(annotation, "__metadata__"):  # Annotated within a union or tuple
        return _form(annotation.__origin__, list(annotation.__metadata__))
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _form(next(kind for kind in arguments if kind is not type(None)), metadata)
    if origin is Literal:
        return "{" + ",".join(map(str, arguments)) + "}", tuple(map(str, arguments))
    if origin is tuple:
        inner = "N,N" if arguments[-1] is not Ellipsis and len(arguments) == 2 else "VALUE,VALUE,…"
        return inner, ()
    if origin is dict:
        return "NAME=VALUE", ()
    if _URL in metadata:
        return "URL", ()
    schema = next((one.json_schema for one in metadata if isinstance(one, WithJsonSchema)), None)
    if schema is not None:
        return str(schema["title"]).upper(), ()
    names = {bool: "bool", int: "N", float: "X"}
    return names.get(annotation, "TEXT"), ()


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{name}={one}" for name, one in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)
