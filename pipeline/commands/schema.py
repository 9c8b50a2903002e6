"""Print the JSON schema of a command's YAML file (--config), with which editors complete and check it.

Examples:
    segpipe schema train > train.schema.json
    segpipe schema segment > segment.schema.json

An editor with the YAML language server, such as VS Code, reads the first line of the YAML file:

    # yaml-language-server: $schema=train.schema.json
"""

import json
from typing import Any

from pydantic import BaseModel, Field
from pydantic_settings import CliPositionalArg

from pipeline import cli
from pipeline.commands import COMMANDS, load
from pipeline.errors import UserError
from pipeline.suggestions import did_you_mean


class SchemaConfig(BaseModel):
    """The options of `segpipe schema`."""

    command: CliPositionalArg[str] = Field(description="command of segpipe, such as train")


CONFIG = SchemaConfig


def main(argv: list[str]) -> None:
    """Print a schema."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    name = config.command.replace("_", "-")
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS, otherwise="segpipe --help lists the commands")
        raise UserError(f"unknown command {config.command}; {hint}")
    print(json.dumps(schema_of(load(name).CONFIG), indent=2, ensure_ascii=False))


def schema_of(config_type: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a configuration in which no option is required: flags may give those it lacks."""
    schema = config_type.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        part.pop("required", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
