"""Recipes: YAML files with the options of a training run as in its paper. They are part of the package."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from pipeline.storage import absolute
from pipeline.suggestions import did_you_mean

FOLDER = Path(__file__).parent


def names(folder: str = "") -> list[str]:
    """Return the names of the recipes in a folder below this one, sorted."""
    return sorted(path.stem for path in (FOLDER / folder).glob("*.yaml"))


def locate(name: str, *, folder: str = "") -> str:
    """Return the path of a recipe by its name; a path or URL of a YAML file is returned as it is, made absolute.

    Raises:
        ValueError: There is no recipe of this name.
    """
    if name.endswith((".yaml", ".yml")) or "://" in name:
        return absolute(name)
    path = FOLDER / folder / f"{name}.yaml"
    if not path.is_file():
        known = names(folder)
        hint = did_you_mean(name, known, otherwise=f"the recipes are {', '.join(known)}")
        raise ValueError(f"no recipe '{name}'; {hint}")
    return str(path)


def summary(name: str, *, folder: str = "") -> str:
    """Return the beginning of a recipe's comment: the network and its paper."""
    first = (FOLDER / folder / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").partition(": ")[0].rstrip(".")


Recipe = Annotated[str, AfterValidator(locate)]
"""A field of a configuration that names a segmentation recipe, or a YAML file."""
