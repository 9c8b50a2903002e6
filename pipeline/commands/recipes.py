"""List the recipes that --recipe NAME takes, with their networks and papers.

Examples:
    segpipe recipes
    segpipe train --recipe pspnet --config data.yaml
    segpipe recipes pspnet > mine.yaml
"""

from pathlib import Path

from pydantic import BaseModel, Field
from pydantic_settings import CliPositionalArg

from pipeline import cli, recipes
from pipeline.commands import COMMANDS, load
from pipeline.errors import UserError
from pipeline.suggestions import did_you_mean


class RecipesConfig(BaseModel):
    """The options of `segpipe recipes`."""

    name: CliPositionalArg[str | None] = Field(default=None, description="recipe to print (default: list all)")


CONFIG = RecipesConfig


def main(argv: list[str]) -> None:
    """List the recipes by command, or print one."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    folders = {name: load(name).RECIPES for name in COMMANDS if hasattr(load(name), "RECIPES")}
    if config.name is not None:
        paths = [recipes.FOLDER / folder / f"{config.name}.yaml" for folder in folders.values()]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            known = [name for folder in folders.values() for name in recipes.names(folder)]
            hint = did_you_mean(config.name, known, otherwise="segpipe recipes lists them")
            raise UserError(f"no recipe '{config.name}'; {hint}")
        print(Path(path).read_text(encoding="utf-8"), end="")
        return
    for command, folder in folders.items():
        print(f"segpipe {command} --recipe")
        width = max(map(len, recipes.names(folder)), default=0)
        for name in recipes.names(folder):
            print(f"  {name:<{width}}  {recipes.summary(name, folder=folder)}")
