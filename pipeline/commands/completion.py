"""Print a script that lets a shell complete commands, flags and values of `segpipe`.

Examples:
    segpipe completion bash > ~/.local/share/bash-completion/completions/segpipe
    segpipe completion zsh > ~/.segpipe.zsh      # and in ~/.zshrc, after compinit: source ~/.segpipe.zsh
    segpipe completion fish > ~/.config/fish/completions/segpipe.fish
"""

from typing import Literal

from pydantic import BaseModel, Field
from pydantic_settings import CliPositionalArg

from pipeline import cli, completion


class CompletionConfig(BaseModel):
    """The options of `segpipe completion`."""

    shell: CliPositionalArg[Literal["bash", "zsh", "fish"]] = Field(description="bash, zsh or fish")


CONFIG = CompletionConfig


def main(argv: list[str]) -> None:
    """Print a completion script."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    print(completion.script(config.shell), end="")
